"""Half the latency: is it met end to end, and is it better than the same speed by a budget of multiply-adds?

    python benchmarks/latency.py resnet50 --batch 1 --size 224 --threads 1
    python benchmarks/latency.py efficientnet_lite0 --photos FOLDER --batch 1
    python benchmarks/latency.py resnet20 --dense FOLDER --batch 16 --images 256

One search per network. From it one plan by `Budget(latency=...)`, confirmed end to end, and one by `Budget(macs=...)`
whose fraction is sought until it runs as fast; both are realised, and measured once more in turn with the dense
network. The networks have random weights (none can be had where this ran) with batch norm settled on inputs of the
kind that they are judged on: smooth random images. So figures of quality compare the two plans with each other and
say nothing about trained networks. With --photos: EfficientNet-Lite0 with its ImageNet weights, half of the
photographs calibrates (6 views each), the other half is judged. With --dense: the trained ResNet-20 of
fashion_mnist.py (--seed), first --images of its calibration images; all test images are judged, and the accuracy is
told. Writes one line of JSON per run to --out.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sprig
from sprig.core.timerun import compare
from sprig.core.tracing import trace
from sprig.core.workbench import Workbench
from sprig.training.bn import reestimate_batch_norm
from sprig.workflow.confirm import pairing


def build(name: str, size: int) -> nn.Module:
    """A network with random weights."""
    torch.manual_seed(0)
    if name.startswith(("vit", "deit")):
        import timm

        net: nn.Module = timm.create_model(name, img_size=size)
    else:
        import torchvision

        net = getattr(torchvision.models, name)()
    return net.eval()


def images(count: int, size: int, seed: int) -> Tensor:
    """Smooth random images: noise of several resolutions, brought to mean 0 and spread 1."""
    draw = torch.Generator().manual_seed(seed)
    total = torch.zeros(count, 3, size, size)
    for side in (4, 8, 16, 32, 64):
        noise = torch.randn(count, 3, side, side, generator=draw) / side**0.5
        total += F.interpolate(noise, size=(size, size), mode="bicubic", align_corners=False)
    return (total - total.mean()) / total.std()


def photographs(folder: str) -> tuple[nn.Module, Tensor, Tensor]:
    """The real network, views of one half of the photographs, and the other half."""
    from photographs import SPEC, WEIGHTS

    from sprig.data import load
    from sprig.models import specs

    model = specs.build(SPEC, weights=WEIGHTS).eval()
    common: dict[str, Any] = {"image": specs.image_spec(model, SPEC, weights=WEIGHTS)}
    spec = f"imagefolder:{folder}?unlabelled"
    seen = load(spec, split="calibration", batch_size=33, views=6, fold="0/2", **common)
    unseen = load(spec, split="test", batch_size=64, fold="1/2", **common)
    return model, *(torch.cat([as_tensor(b) for b in data]) for data in (seen, unseen))


def trained(folder: str, seed: int, count: int) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """The trained ResNet-20, calibration images, the test images and their labels."""
    from fashion_setup import Bench

    bench = Bench(Path(folder))
    seen = torch.cat([x for x, _ in bench.calibration])[:count]
    return bench.dense(seed), seen, *(torch.cat(part) for part in zip(*bench.test, strict=True))


def as_tensor(batch: Any) -> Tensor:
    """The images of a batch."""
    return batch if isinstance(batch, Tensor) else batch[0]


def error(dense: nn.Module, small: nn.Module, x: Tensor, labels: Tensor | None) -> dict[str, float]:
    """How far the outputs moved on inputs that the search has not seen."""
    with torch.no_grad():
        a = torch.cat([dense(part) for part in x.split(8)])
        b = torch.cat([small.eval()(part) for part in x.split(8)])
    right = {}
    if labels is not None:
        dense_right, small_right = ((y.argmax(1) == labels).float().mean() for y in (a, b))
        right = {"dense_accuracy": float(dense_right), "accuracy": float(small_right)}
    spread = (a - a.mean(0)).square().sum()
    p = a.log_softmax(1)
    return {
        "relative_error": float((a - b).square().sum() / spread),
        "kl": float((p.exp() * (p - b.log_softmax(1))).sum(1).mean()),
        "agreement": float((a.argmax(1) == b.argmax(1)).float().mean()),
        **right,
    }


def same_speed(
    path: sprig.Path, pair: Any, wanted: float, *, tries: int = 7
) -> tuple[float, list[dict[str, float]]]:
    """The fraction of the multiply-adds whose plan takes the wanted share of the dense latency."""
    low, high = 0.02, 1.0
    fraction, trials = wanted, []
    points = [(1.0, 1.0)]
    for _ in range(tries):
        seen = pair(path.at(sprig.Budget(macs=fraction)))
        trials.append({"macs": fraction, "ratio": seen["ratio"]})
        points.append((fraction, seen["ratio"]))
        if abs(seen["ratio"] / wanted - 1) < 0.02:
            break
        if seen["ratio"] > wanted:
            high = min(high, fraction)
        else:
            low = max(low, fraction)
        one, two = sorted(points, key=lambda p: abs(p[1] - wanted))[:2]
        rise = (two[1] - one[1]) / (two[0] - one[0]) if two[0] != one[0] else 0.0
        guess = one[0] + (wanted - one[1]) / rise if rise > 0 else (low + high) / 2
        fraction = guess if low < guess < high else (low + high) / 2
    best = min(trials, key=lambda t: abs(t["ratio"] / wanted - 1))
    return best["macs"], trials


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("model")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--latency", type=float, default=0.5)
    parser.add_argument("--method", default="refit")
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--backend", default="eager")
    parser.add_argument("--photos", default=None)
    parser.add_argument("--dense", default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="benchmarks/results/latency.jsonl")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    began = time.perf_counter()
    labels = None
    if options.dense:
        net, x, held, labels = trained(options.dense, options.seed, options.images)
    elif options.photos:
        net, x, held = photographs(options.photos)
    else:
        net = build(options.model, options.size)
        x = images(options.images, options.size, 1)
        held = images(2 * options.images, options.size, 2)
        reestimate_batch_norm(net, [x])
    example = (x[:2],)
    timing = sprig.Timing(batch=options.batch, threads=options.threads, backend=options.backend)
    path = sprig.search(net, example, [x], method=options.method)
    searched = time.perf_counter()
    settings: dict[str, Any] = {"method": options.method, "path": path}
    fast = sprig.prune(
        net, example, [x], sprig.Budget(latency=options.latency), timing=timing, **settings
    )
    found = fast.record.config["latency"]
    planned = time.perf_counter()
    bench = Workbench(net, trace(net, example), [])
    pair = pairing(bench, example, timing)
    wanted = found["measured"]["ratio"]
    fraction, trials = same_speed(path, pair, wanted)
    lean = sprig.prune(net, example, [x], sprig.Budget(macs=fraction), **settings)
    again = {
        name: compare(net, result.model, example, timing, patience=4.0)
        for name, result in (("latency", fast), ("macs", lean))
    }
    row = {
        **{k: v for k, v in vars(options).items() if k not in ("photos", "dense")},
        "setting": found["setting"],
        "trials": found["trials"],
        "claimed": found["measured"],
        "layers": len(found["layers"]),
        "rivals": found.get("rivals", []),
        "seconds": {"search": searched - began, "latency run": planned - searched},
    }
    for name, result in (("latency", fast), ("macs", lean)):
        row[name] = {
            "measured": again[name],
            "predicted_harm": path.predicted(result.plan),
            "macs": result.after.macs / result.before.macs,
            "params": result.after.params / result.before.params,
            **error(net, result.model, held, labels),
        }
    row["macs_trials"] = trials
    row.pop("out")
    with Path(options.out).open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(row, indent=1))


if __name__ == "__main__":
    main()
