"""Calibration with one, two and four processes on one machine: same plan, same weights, how much time.

    python benchmarks/processes.py --weights DENSE.safetensors --images 512

What a process needs of the processor is told beside what the clock says: with fewer cores than processes the clock says
nothing about them, while the processor time of a stage is what the stage would take on a core of its own.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

import sprig
from sprig.core.weights import sha256_tensors
from sprig.data import load
from sprig.models import specs
from sprig.testing.processes import Processes

RESULTS = Path(__file__).parent / "results" / "processes.md"
STAGES = {"moments": "moments", "sensitivity": "harm of trials", "refit": "final pass"}


def clocked(times: dict[str, list[float]]) -> Callable[[str, int, int], None]:
    """A progress callback that keeps processor and wall time at the two ends of every stage."""

    def progress(stage: str, done: int, total: int) -> None:
        if stage in STAGES and done in (0, total):
            now = [time.process_time(), time.perf_counter()]
            times[stage] = (times.get(stage, now)[:2] if done else now) + now

    return progress


def work(file: str, model: str, weights: str, data: str, images: str, budget: str) -> None:
    """One process of the group; the first writes what came out."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(hours=2))
    net = specs.build(model, weights=weights or None, in_channels=1).eval()
    batches = list(load(data, split="calibration", limit=int(images)))
    example = (batches[0][0][:2],)
    times: dict[str, list[float]] = {}
    result = sprig.prune(
        net, example, batches, sprig.Budget(macs=float(budget)), processes=True, progress=clocked(times)
    )  # fmt: skip
    if os.environ["RANK"] == "0":
        found: dict[str, Any] = {
            STAGES[stage]: [at[2] - at[0], at[3] - at[1]] for stage, at in times.items()
        }
        found |= {"plan": result.plan.hash, "weights": sha256_tensors(result.model.state_dict())}
        Path(file).write_text(json.dumps(found))
    dist.destroy_process_group()


def page(rows: dict[int, dict[str, Any]], asked: argparse.Namespace) -> str:
    one = rows[min(rows)]
    lines = [
        "# Several processes, one machine",
        "",
        f"`python benchmarks/processes.py{' --weights FILE' if asked.weights else ''}` on {asked.model}, "
        f"{asked.images} images of {asked.data}, budget",
        f"{asked.budget} of the multiply-adds, {len(os.sched_getaffinity(0))} core(s) for all processes together,",
        "one thread each, gloo. Seconds of the first",
        "process, which does most: of the processor, and (by the clock). Ratio: processor seconds against one process.",
        "",
        "| processes | " + " | ".join(STAGES.values()) + " | all three | ratio | plan | weights |",
        "|---|" + "---|" * (len(STAGES) + 4),
    ]
    base = sum(one[name][0] for name in STAGES.values())
    for size, row in rows.items():
        cells = [f"{row[name][0]:.2f} ({row[name][1]:.2f})" for name in STAGES.values()]
        whole = [sum(row[name][i] for name in STAGES.values()) for i in (0, 1)]
        same = ["same" if row[key] == one[key] else "DIFFERS" for key in ("plan", "weights")]
        lines.append(
            f"| {size} | " + " | ".join(cells) + f" | {whole[0]:.2f} ({whole[1]:.2f}) "
            f"| {whole[0] / base:.2f} | {same[0]} | {same[1]} |"
        )  # fmt: skip
    lines += [
        "",
        "Forward passes and trials are shared out; what is left in the final pass is solved layer after layer by the",
        "first process. Where processes share a core, the clock tells how busy the machine was, not what cores bring.",
    ]
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="sprig:resnet20")
    parser.add_argument("--weights", default="")
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--budget", type=float, default=0.5)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    rows = {}
    for size in asked.sizes:
        folder = Path(tempfile.mkdtemp())
        file = folder / "found.json"
        given = (asked.model, asked.weights, asked.data, str(asked.images), str(asked.budget))
        group = Processes(f"{__file__}:work", size, folder, (str(file), *given))
        codes = group.wait(7200)
        if codes != [0] * size:
            raise SystemExit(f"{size} processes ended with {codes}:\n{group.said(0)}")
        rows[size] = json.loads(file.read_text())
        print(size, json.dumps(rows[size]))
        asked.out.write_text(page(rows, asked))
    print(asked.out.read_text())


if __name__ == "__main__":
    main()
