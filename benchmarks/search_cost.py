"""What a whole search costs beside one plain forward pass over the same images, in the same run.

    python benchmarks/search_cost.py --model torchvision:resnet50 --images 256 --size 224 --threads 2

Random weights (cost does not depend on them) with batch norm settled on the images first; peak memory is the process's
own high-water mark less what it held before the search. Also: seconds for trace + plan + shrink.
"""

import argparse
import copy
import json
import resource
import time
from pathlib import Path

import torch

import sprig
from sprig.core.workbench import Workbench
from sprig.methods import METHODS
from sprig.models import specs
from sprig.training import reestimate_batch_norm

RESULTS = Path(__file__).parent / "results"


def peak() -> float:
    """GiB, of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="torchvision:resnet50")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = specs.build(args.model).eval()
    # smooth random images: white noise would leave no structure to select by
    coarse = torch.randn(args.images, 3, args.size // 8, args.size // 8)
    images = torch.nn.functional.interpolate(coarse, size=(args.size, args.size), mode="bilinear")
    batches = list(images.split(args.batch))
    reestimate_batch_norm(model, batches[:1])
    begin = time.perf_counter()
    graph = sprig.trace(model, (images[:1],))
    traced = time.perf_counter() - begin

    def forward() -> float:
        start = time.perf_counter()
        with torch.no_grad():
            for batch in batches:
                model(batch)
        return time.perf_counter() - start

    plain = [forward()]
    before = peak()
    stages: dict[str, list[float]] = {}

    def note(what: str, done: int, total: int) -> None:
        stages.setdefault(what, [time.perf_counter()] * 2)[1] = time.perf_counter()

    start = time.perf_counter()
    bench = Workbench(copy.deepcopy(model), graph, [((b,), {}, None) for b in batches], 0, note)
    path = METHODS["refit"].search(bench, METHODS["refit"].config())
    searched = time.perf_counter() - start
    high = peak()
    plain.append(forward())
    start = time.perf_counter()
    plans = [path.at(sprig.Budget(macs=0.3 + 0.7 * i / 20)) for i in range(1, 21)]
    planned = time.perf_counter() - start
    start = time.perf_counter()
    sprig.shrink(model, plans[5], graph)
    shrunk = time.perf_counter() - start
    ratio = searched / (sum(plain) / len(plain))
    row = {
        "model": args.model,
        "images": args.images,
        "threads": args.threads,
        "forward_s": [round(p, 2) for p in plain],
        "search_s": round(searched, 2),
        "ratio": round(ratio, 2),
        "stages_s": {k: round(b - a, 2) for k, (a, b) in stages.items()},
        "peak_gib": round(high, 2),
        "peak_before_gib": round(before, 2),
        "twenty_plans_s": round(planned, 2),
        "trace_plan_shrink_s": round(traced + planned / 20 + shrunk, 2),
    }
    print(json.dumps(row))
    RESULTS.mkdir(exist_ok=True)
    with open(RESULTS / "search_cost.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
