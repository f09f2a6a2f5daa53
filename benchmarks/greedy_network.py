"""Greedy networks beside what is simpler: do gradients through the picks bring more than the set function alone?

    pip install --no-deps aclsum && pip install scikit-learn
    python benchmarks/greedy_network.py run                # both tasks; a stopped run goes on where it was
    python benchmarks/greedy_network.py page               # the table from the lines

Tasks, three picks each:
 - papers: ACLSum (Takeshita et al. 2024; the package has the data, MIT): sentences of abstract, introduction and
   conclusion of 250 papers; people highlighted those that tell the challenge, the approach, the outcome. Its own split:
   100 papers to train on, 50 to tune on, 100 to judge. Covered: how many of the three a highlighted pick tells. Right:
   picks that are highlighted at all. Features of a sentence: TF-IDF of the commonest terms of the training papers,
   section, position.
 - claims: synthetic. 12 aspects in 30 dimensions, a claim is the sum of 3; 15 sentences, each about one aspect, 1 to 3
   for each that the claim has; noise 0.2. Covered: aspects of the claim that a pick is about. Right: picks that are
   the strongest sentence of such an aspect.

Every arm gets as many trials, drawn alike, judged on the tuning split by the mean of covered and right, and the best
checkpoint of each by the same; the best trial is trained anew with other seeds and judged on the test split, once.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from greedy_network_page import ARMS, Lines, page, verdict
from torch import Tensor, nn

from sprig.core.lookup import file_of
from sprig.greedy import GreedyNetwork, gold_loss, padded, reward_loss, unfold
from sprig.greedy.network import SHARP

__all__ = ["ARMS", "Lines", "page", "verdict"]  # of the page
RESULTS = Path(__file__).parent / "results"
K, CHECKS = 3, 6
SECTIONS = ("abstract", "introduction", "conclusion")
ASPECTS = ("challenge", "approach", "outcome")
# what is trained: how it picks
TRAINED = {
    "alone": "alone",
    "features": "alone + greedy",
    "aspects": "aspects + greedy",
    "modular": "modular",
    "soft": "soft",
    "sampled": "sampled",
}


@dataclass
class Split:
    """Examples of a task, padded."""

    x: Tensor  # (B, N, D)
    mask: Tensor  # (B, N)
    serves: Tensor  # (B, N, A) which aspect an item serves
    gold: Tensor  # (B, N) which picks are right
    fixed: Tensor  # (B, N, U) features at least 0 that nothing was trained for
    near: Tensor  # (B, N) how near an item is to the claim, or to its paper; in [0, 1]


@dataclass
class Task:
    train: Split
    tune: Split
    test: Split
    steps: int
    batch: int
    by_aspect: bool  # training sees which aspect an item serves, else only which picks are right


def papers(args: argparse.Namespace) -> Task:
    """ACLSum with term features."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    rows = {
        part: [
            json.loads(line)
            for line in file_of(f"package:aclsum/aclsum/dataset/{part}.jsonl")
            .read_text(encoding="utf-8")
            .splitlines()
        ]
        for part in ("train", "val", "test")
    }

    def sentences(row: dict[str, Any]) -> list[str]:
        return [text for section in SECTIONS for text in row["sentences"][section]]

    terms = TfidfVectorizer(max_features=args.terms, ngram_range=(1, 2), sublinear_tf=True)
    terms.fit([text for row in rows["train"] for text in sentences(row)])

    def split(part: str) -> Split:
        x, serves, fixed, near = [], [], [], []
        for row in rows[part]:
            words = torch.from_numpy(terms.transform(sentences(row)).toarray()).float()
            places = [
                [float(section == s) for s in SECTIONS]
                + [at / len(row["sentences"][section]), float(at == 0)]
                + [float(at == len(row["sentences"][section]) - 1)]
                for section in SECTIONS
                for at in range(len(row["sentences"][section]))
            ]
            labels = [[t for s in SECTIONS for t in row["highlights"][a][s]] for a in ASPECTS]
            x.append(torch.cat([words, torch.tensor(places)], 1))
            serves.append(torch.tensor(labels).T.float())
            fixed.append(words)
            near.append(F.cosine_similarity(words, words.mean(0, keepdim=True)))
        padded_x, mask = padded(x)
        told = padded(serves)[0]
        return Split(padded_x, mask, told, told.amax(-1), padded(fixed)[0], padded(near)[0])

    return Task(split("train"), split("val"), split("test"), args.steps // 2, 25, True)


def claims(args: argparse.Namespace) -> Task:
    """Synthetic claims of three aspects."""
    generator = torch.Generator().manual_seed(0)
    aspects = F.normalize(torch.randn(12, 30, generator=generator), dim=1)

    def split(count: int) -> Split:
        chosen = torch.stack([torch.randperm(12, generator=generator) for _ in range(count)])
        about = torch.zeros(count, 15, dtype=torch.int64)
        for i, row in enumerate(chosen):
            many = torch.randint(1, 4, (3,), generator=generator)
            relevant = row[:3].repeat_interleave(many)
            others = row[3:][torch.randint(9, (15 - len(relevant),), generator=generator)]
            about[i] = torch.cat([relevant, others])[torch.randperm(15, generator=generator)]
        strength = 0.5 + torch.rand(count, 15, generator=generator)
        noise = 0.2 * torch.randn(count, 15, 30, generator=generator)
        text = aspects[about] * strength[..., None] + noise
        claim = aspects[chosen[:, :3]].sum(1, keepdim=True).expand_as(text)
        serves = (about[..., None] == chosen[:, None, :3]).float()
        best = (serves * strength[..., None]).argmax(1)  # (B, 3)
        near = F.cosine_similarity(text, claim, dim=-1).clamp_min(0)
        mask = torch.ones(count, 15, dtype=torch.bool)
        gold = F.one_hot(best, 15).sum(1).float()
        both = torch.cat([text.clamp_min(0), (-text).clamp_min(0)], -1)
        return Split(torch.cat([text, claim, text * claim], -1), mask, serves, gold, both, near)

    return Task(split(args.claims), split(300), split(1000), args.steps, 100, False)


TASKS: dict[str, Callable[[argparse.Namespace], Task]] = {"papers": papers, "claims": claims}


def judged(part: Split, chosen: Tensor) -> tuple[float, float]:
    """Covered and right, of hard picks (B, N)."""
    there = part.serves.amax(1) > 0
    covered = ((chosen[..., None] * part.serves).amax(1) * there).sum(-1) / there.sum(-1)
    right = (chosen * part.gold).sum(-1) / chosen.sum(-1)
    return float(covered.mean()), float(right.mean())


def best_of(scores: Tensor, mask: Tensor) -> Tensor:
    """(B, N) the K items of the highest scores."""
    top = scores.masked_fill(~mask, -math.inf).topk(K, -1).indices
    return F.one_hot(top, scores.shape[1]).sum(1).float()


def settings(arm: str, trial: int) -> dict[str, Any]:
    """What a trial sets; drawn alike for every arm that is trained."""
    g = torch.Generator().manual_seed(1000 + trial)
    draw = torch.rand(6, generator=g).tolist()
    if arm == "fixed":
        return {
            "curve": ("sqrt", "log", "max")[int(3 * draw[0])],
            "power": (0, 1, 2, 4)[int(4 * draw[1])],
            "idf": bool(draw[2] > 0.5),
        }
    return {
        "rate": round(10 ** (-2.7 + 1.5 * draw[0]), 5),
        "hidden": (16, 32, 64)[int(3 * draw[1])],
        "concepts": (8, 16, 24)[int(3 * draw[2])],
        "curve": ("sqrt", "log")[int(2 * draw[3])],
        "temperature": (0.3, 1.0, 3.0)[int(3 * draw[4])],
        "decay": (0.0, 1e-3, 1e-2)[int(3 * draw[5])],
    }


def built(arm: str, task: Task, config: dict[str, Any], seed: int) -> GreedyNetwork:
    size, aspects = task.train.x.shape[-1], task.train.serves.shape[-1]
    concepts = aspects if arm == "aspects" else config["concepts"]
    curve = {"aspects": "or", "modular": "linear"}.get(arm, config["curve"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = nn.Sequential(
            nn.Linear(size, config["hidden"]), nn.ReLU(), nn.Linear(config["hidden"], concepts)
        )
    net = GreedyNetwork(
        encoder,
        concepts,
        curve=curve,
        temperature=config["temperature"],
        mode="sampled" if arm == "sampled" else "soft",
    )
    if arm == "aspects":
        net.raw.requires_grad_(False)  # every aspect counts one
    if arm in ("alone", "aspects"):
        # as one would write them without a network: softplus or sigmoid of what the encoder gives, gains as they are
        net.center.fill_(-SHARP)
        net.stretch.fill_(1 / SHARP)
        net.settled.fill_(True)
    return net


def loss_of(
    arm: str, net: GreedyNetwork, task: Task, rows: Tensor, generator: torch.Generator
) -> Tensor:
    part = task.train
    x, mask, gold, serves = (t[rows] for t in (part.x, part.mask, part.gold, part.serves))
    if arm in ("alone", "features"):  # listwise: which item is gold, of all
        logs = (net.scores(x, mask=mask).masked_fill(~mask, -1e9)).log_softmax(-1)
        return -((logs * gold).sum(-1) / gold.sum(-1)).mean()
    if arm == "aspects":
        return F.binary_cross_entropy(net.measure(x)[mask], serves[mask])
    if arm == "sampled":
        walk = net(x, budgets=K, mask=mask, draws=4, generator=generator)
        told, right = serves.repeat(4, 1, 1), gold.repeat(4, 1)
        covered = (walk.chosen[..., None] * told).amax(1).sum(-1) / (told.amax(1) > 0).sum(-1)
        return reward_loss(walk, (covered + (walk.chosen * right).sum(-1) / K) / 2)
    walk = net(x, budgets=K, mask=mask)
    return gold_loss(walk, serves if task.by_aspect else gold)


@torch.no_grad()
def picked(net: GreedyNetwork, part: Split, arm: str) -> Tensor:
    """Hard picks of a trained network."""
    net.eval()
    if arm == "alone":
        return best_of(net.scores(part.x), part.mask)
    return net(part.x, budgets=K, mask=part.mask).chosen.float()


def trained(arm: str, task: Task, config: dict[str, Any], seed: int) -> dict[str, float]:
    """Figures at the checkpoint that was best on the tuning split."""
    net = built(arm, task, config, seed)
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(net.parameters(), lr=config["rate"], weight_decay=config["decay"])
    best = {"tuned": -1.0}
    batches = shuffled(len(task.train.x), task.batch, generator)
    for step in range(1, task.steps + 1):
        net.train()
        loss = loss_of(arm, net, task, next(batches), generator)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % (task.steps // CHECKS) == 0:
            covered, right = judged(task.tune, picked(net, task.tune, arm))
            if (covered + right) / 2 > best["tuned"]:
                there = judged(task.test, picked(net, task.test, arm))
                best = {
                    "tuned": (covered + right) / 2,
                    "step": step,
                    "covered": there[0],
                    "right": there[1],
                }
    return best


def shuffled(count: int, batch: int, generator: torch.Generator) -> Iterator[Tensor]:
    while True:
        yield from torch.randperm(count, generator=generator).split(batch)


def unlearnt(arm: str, task: Task, config: dict[str, Any], seed: int) -> dict[str, float]:
    """Arms without training."""

    def chosen(part: Split) -> Tensor:
        if arm == "random":
            g = torch.Generator().manual_seed(seed)
            return best_of(torch.rand(part.mask.shape, generator=g), part.mask)
        if arm == "first":
            return best_of(
                -torch.arange(part.mask.shape[1]).float().expand(part.mask.shape), part.mask
            )
        m = part.fixed * part.near[..., None].clamp_min(0) ** config["power"]
        weights = None
        if config["idf"]:  # concepts that many items hold count less
            weights = -((part.fixed > 0).float() * part.mask[..., None]).sum(1).add(1).log()
            weights = weights + (part.mask.sum(1, keepdim=True) + 2.0).log()
        walk = unfold(m, K, weights=weights, mask=part.mask, curve=config["curve"], mode="hard")
        return walk.chosen.float()

    tuned, there = judged(task.tune, chosen(task.tune)), judged(task.test, chosen(task.test))
    return {"tuned": sum(tuned) / 2, "step": 0, "covered": there[0], "right": there[1]}


def run(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    lines = Lines(args.results)
    for name in args.tasks:
        task = TASKS[name](args)

        def one(arm: str, phase: str, trial: int, seed: int, name=name, task=task) -> None:
            row = {"task": name, "arm": TRAINED.get(arm, arm), "phase": phase}
            row |= {"trial": trial, "seed": seed}
            if lines.find(**row):
                return
            began, config = time.process_time(), settings(arm, trial)
            figures = (trained if arm in TRAINED else unlearnt)(arm, task, config, seed)
            spent = round(time.process_time() - began, 2)
            lines.add({**row, **figures, "config": config, "seconds": spent})
            print(name, arm, phase, trial, seed, spent, flush=True)

        arms = [a for a in (*TRAINED, "fixed") if a != "aspects" or task.by_aspect]
        for trial in range(args.trials):
            for arm in arms:
                one(arm, "tune", trial, 0)
        for seed in range(1, args.seeds + 1):
            for arm in ("random", "first") if name == "papers" else ("random",):
                one(arm, "final", 0, seed)
            for arm in arms:
                tried = lines.find(task=name, arm=TRAINED.get(arm, arm), phase="tune")
                one(arm, "final", max(tried, key=lambda r: r["tuned"])["trial"], seed)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("verb", choices=["run", "page"])
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--trials", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=450, help="half of them for papers")
    parser.add_argument("--terms", type=int, default=400)
    parser.add_argument("--claims", type=int, default=1500)
    parser.add_argument("--results", type=Path, default=RESULTS / "greedy_network.jsonl")
    parser.add_argument("--out", type=Path, default=RESULTS / "greedy_network.md")
    args = parser.parse_args()
    if args.verb == "run":
        run(args)
    text = page(args)
    args.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
