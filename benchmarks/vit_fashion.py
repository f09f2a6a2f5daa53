"""A ViT on Fashion-MNIST: half of the feed-forward features and a third of the heads leave, no retraining.

    python benchmarks/vit_fashion.py --folder runs/vit --seeds 0 1 --threads 2

timm's VisionTransformer (28 x 28, patches of 7, width 96, depth 4, 6 heads) trained here; calibration: 1,024 training
images without labels. Every block loses the same share in all arms; only which units leave, and what the readers make
of it, differs. Also heads alone and features alone. Test accuracy; nothing is chosen on test images.
"""

import argparse
import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from fashion_setup import EXAMPLE, Bench, fresh, macs_of
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import sprig
from sprig.core.batches import as_batches
from sprig.core.surgery import shrink
from sprig.core.workbench import Workbench
from sprig.methods import METHODS
from sprig.training import TrainConfig, accuracy, agreement, train

RESULTS = Path(__file__).parent / "results" / "vit_fashion.md"
RECIPE = TrainConfig(
    epochs=12, lr=2e-3, optimizer="adamw", weight_decay=0.05, warmup=1.0, smoothing=0.1, clip=1.0
)
ARMS = ("refit", "magnitude", "random")
CUTS = {"heads": (2 / 3, 1.0), "features": (1.0, 0.5), "both": (2 / 3, 0.5)}


def network() -> nn.Module:
    return VisionTransformer(
        img_size=28, patch_size=7, in_chans=1, num_classes=10, embed_dim=96, depth=4, num_heads=6
    )


def dense(bench: Bench, folder: Path, seed: int) -> nn.Module:
    """Trained here, once per seed."""
    path = folder / f"vit-seed{seed}.safetensors"
    torch.manual_seed(seed)
    model = network()
    if not path.exists():
        record = train(
            model,
            replace(bench.training, seed=seed),
            config=replace(RECIPE, seed=seed),
            evaluation=bench.validation,
            folder=folder / f"state-vit-{seed}",
            resume=True,
        )
        save_file(record.model.state_dict(), path)
    model.load_state_dict(load_file(path))
    return model.eval()


def sizes(graph: Any, heads: float, features: float) -> dict[int, int]:
    """What every group keeps: attention groups a share of their heads, the others of their features."""
    return {
        g.index: max(1, round((heads if ".attn." in g.name else features) * g.size))
        for g in graph.prunable
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("runs/vit"))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.folder.mkdir(parents=True, exist_ok=True)
    bench = Bench(args.folder)
    found: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    whole = []
    for seed in args.seeds:
        model = dense(bench, args.folder, seed)
        whole.append(accuracy(model, bench.test))
        graph = sprig.trace(model, (EXAMPLE,))
        for arm in ARMS:
            method = METHODS[arm]
            triples = list(as_batches([x for x, _ in bench.calibration]))
            work = Workbench(fresh(model), graph, triples, seed)
            path = method.search(work, method.config())
            for cut, shares in CUTS.items():
                plan = path.plan(sizes(graph, *shares))
                outcome = method.realise(work, plan, method.config())
                small = shrink(model, outcome, graph).eval()
                row = (
                    accuracy(small, bench.test),
                    agreement(model, small, [x for x, _ in bench.test]).top1,
                    macs_of(small) / macs_of(model),
                )
                found.setdefault((arm, cut), []).append(row)
                print(json.dumps({"seed": seed, "arm": arm, "cut": cut, "row": row}), flush=True)
    RESULTS.write_text(page(found, whole))
    print(page(found, whole))


def page(found: dict[tuple[str, str], list[tuple[float, float, float]]], whole: list[float]) -> str:
    out = [
        "# ViT on Fashion-MNIST, no retraining",
        "",
        (__doc__ or "").split("\n\n")[2].replace("\n", " ").strip(),
        "",
        f"Dense: {', '.join(f'{100 * a:.2f}' for a in whole)}% (n={len(whole)}), {RECIPE.epochs} epochs of "
        f"{RECIPE.optimizer}.",
        "",
        "| arm | cut | test accuracy | agreement with the dense network | MACs |",
        "|---|---|---|---|---|",
    ]
    for (arm, cut), rows in found.items():
        means = [statistics.mean(r[i] for r in rows) for i in range(3)]
        each = ", ".join(f"{100 * r[0]:.2f}" for r in rows)
        out.append(
            f"| {arm} | {cut} | {100 * means[0]:.2f} ({each}) | {100 * means[1]:.2f} | {means[2]:.1%} |"
        )
    return "\n".join([*out, ""])


if __name__ == "__main__":
    main()
