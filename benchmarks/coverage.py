"""Which models people have can be cut out of the box: one smallest member of every timm family, all of torchvision.

    python benchmarks/coverage.py run --source timm            results/coverage.jsonl, one process per model
    python benchmarks/coverage.py run --source torchvision --limit 100
    python benchmarks/coverage.py run --models timm:levit_128s
    python benchmarks/coverage.py table                        docs/coverage.md

Each model, random weights: traced, cut to 60% of its multiply-adds (or as far as it goes), masked = shrunk in float64,
costs recounted, deep-copied, trained one step, and loaded into a fresh model by the shapes and numbers that a run
folder keeps. One thread; the seconds are those of all of it.
"""

import argparse
import collections
import copy
import json
import statistics
import subprocess
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

ROOT = Path(__file__).parent
RESULTS = ROOT / "results" / "coverage.jsonl"
PAGE = ROOT.parent / "docs" / "coverage.md"
TIMEOUT = 300  # seconds, of one process with its imports
SHARE = 0.6
LARGE = 300  # pixels

Row = dict[str, Any]


def families() -> list[str]:
    """The member with the fewest parameters of every timm family, small families' heads first."""
    import timm
    from timm.models._registry import _module_to_models

    found = []
    for names in _module_to_models.values():
        sizes = {}
        for name in sorted(names):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    with torch.device("meta"):
                        model = timm.create_model(name, pretrained=False)
                except Exception:  # it cannot be built without memory, or not without a download
                    continue
            sizes[name] = sum(p.numel() for p in model.parameters())
        if sizes:
            best = min(sizes, key=lambda n: (sizes[n], n))
            found.append((sizes[best], f"timm:{best}"))
    return [name for _, name in sorted(found)]


def vision(limit: float) -> list[str]:
    """torchvision's classifiers below `limit` million parameters."""
    from torchvision import models

    found = []
    for name in models.list_models(module=models):
        try:
            with torch.device("meta"):
                model = models.get_model(name, weights=None)
        except NotImplementedError:  # it draws its weights itself
            model = models.get_model(name, weights=None)
        count = sum(p.numel() for p in model.parameters())
        if count < limit * 1e6:
            found.append((count, f"torchvision:{name}"))
    return [name for _, name in sorted(found)]


def example_for(spec: str, model: torch.nn.Module) -> torch.Tensor:
    """Two random images of the size that the model states; smaller ones where it states large ones but takes any."""
    from sprig.models import specs

    image = specs.image_spec(model, spec)
    height, width = image.size or (224, 224)
    draw = torch.Generator().manual_seed(0)
    if max(height, width) > LARGE:
        small = torch.randn(2, image.channels or 3, 224, 224, generator=draw)
        try:
            with torch.no_grad():
                model(small[:1])
            return small
        except (AssertionError, RuntimeError, ValueError):  # it takes its own size alone
            draw.manual_seed(0)
    return torch.randn(2, image.channels or 3, height, width, generator=draw)


def planned(graph: Any) -> tuple[Any, float]:
    """Random units at 60% of the multiply-adds, or as near as the groups allow; and the least that is reachable."""
    import sprig
    from sprig.core.cost import cost
    from sprig.core.path import Path as Search
    from sprig.core.types import GroupPath

    draw = np.random.default_rng(0)
    groups, harm = {}, {}
    for group in graph.prunable:
        order = tuple(int(i) for i in draw.permutation(group.size))
        errors = tuple((1 - i / group.size) ** 2 for i in range(group.size + 1))
        groups[group.name], harm[group.name] = GroupPath(group.name, order, (), errors, ()), errors
    path = Search(graph=graph, groups=groups, harm=harm, method="random")
    least = path.allocator.models["macs"](path.allocator.least()) / cost(graph)["macs"]
    return path.at(sprig.Budget(macs=max(SHARE, least + 0.1 * (1 - least)))), least


def handled(spec: str) -> Row:
    """Everything that is asked of one model."""
    import sprig
    from sprig.core.cost import cost
    from sprig.core.numbers import numbers
    from sprig.core.reload import reshape
    from sprig.core.surgery import mask, shrink
    from sprig.core.tracing import distance, stirred, tensors_of
    from sprig.models import specs
    from sprig.testing.checks import counted, parameters

    torch.manual_seed(0)
    model = specs.build(spec).eval()
    x = example_for(spec, model)
    row: Row = {"model": spec, "params": parameters(model)}
    began = time.perf_counter()
    graph = sprig.trace(model, (x,))
    reasons = collections.Counter(g.reason.split(";")[0] for g in graph.groups if g.reason)
    row |= {
        "groups": len(graph.groups),
        "prunable": len(graph.prunable),
        "heads": len({n.module for n in graph.numbers if n.kind == "count" and free(graph, n)}),
        "reasons": [f"{reason[:150]} ({count})" for reason, count in reasons.most_common(3)],
    }
    if not graph.prunable:
        return row | {"status": "refused", "seconds": round(time.perf_counter() - began, 1)}
    plan, least = planned(graph)
    small = shrink(model, plan, graph)
    row |= {
        "least": round(least, 3),
        "kept": round(plan.cost["macs"] / cost(graph)["macs"], 3),
        "cut_s": round(time.perf_counter() - began, 1),
    }
    live, wide = stirred(model).double(), x.double()
    try:
        with torch.no_grad():
            with Narrowing() as narrowing:
                dense = live(wide)
            masked = mask(live, plan, graph)(wide)
        row["precision"] = "float32 inside" if narrowing.seen else "float64"
    except RuntimeError:  # the model insists on its own precision
        live, wide = stirred(model), x
        with torch.no_grad():
            dense, masked = live(wide), mask(live, plan, graph)(wide)
        row["precision"] = "float32"
    found, macs = counted(shrink(live, plan, graph), (wide,), {})
    row |= {"gap": distance(masked, found), "moved": distance(dense, masked)}
    row["recount"] = macs == plan.cost["macs"] and parameters(small) == plan.cost["params"]
    twin = copy.deepcopy(small).train()
    torch.stack([o.square().mean() for o in tensors_of(twin(x))]).sum().backward()
    torch.optim.SGD([p for p in twin.parameters() if p.grad is not None], lr=1e-3).step()
    shapes = {n: tuple(t.shape) for n, t in [*small.named_parameters(), *small.named_buffers()]}
    back = reshape(specs.build(spec), shapes, numbers(model, plan.masks(graph), graph)).eval()
    back.load_state_dict(small.state_dict())
    with torch.no_grad():
        row["reloaded"] = distance(back(x), small.eval()(x)) == 0
    row["seconds"] = round(time.perf_counter() - began, 1)
    close = row["gap"] <= (1e-8 if row["precision"] == "float64" else 1e-4)
    good = close and row["moved"] > 1e-6 and row["recount"] and row["reloaded"]
    return row | {"status": "ok" if good else "wrong"}


class Narrowing(TorchDispatchMode):
    """Whether a model in double precision goes down to single precision on its way, e.g. in its norms."""

    seen = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default:
            self.seen |= args[0].dtype == torch.float64 and out.dtype == torch.float32
        return out


def free(graph: Any, number: Any) -> bool:
    """Whether what lies along a module's own number may leave."""
    return any(graph.groups[i].prunable for i in np.unique(number.axis.group) if i >= 0)


def one(spec: str) -> Row:
    """One model, whatever happens."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    try:
        return handled(spec)
    except Exception as error:
        text = str(error).strip().split("\n")[0]
        where = traceback.extract_tb(error.__traceback__)[-1]
        said = f"{type(error).__name__}: {text[:200]} ({Path(where.filename).name}:{where.lineno})"
        refused = type(error).__module__.startswith("sprig")
        return {"model": spec, "status": "refused" if refused else "failed", "reasons": [said]}


def run(specs: list[str], results: Path) -> None:
    """Every model in a process of its own; those on file already are left out."""
    done = {row["model"] for row in read(results)}
    for spec in (s for s in specs if s not in done):
        began = time.perf_counter()
        try:
            made = subprocess.run(
                [sys.executable, __file__, "one", "--models", spec],
                capture_output=True, text=True, timeout=TIMEOUT, check=False,
            )  # fmt: skip
            lines = [line for line in made.stdout.splitlines() if line.startswith("{")]
            row = (
                json.loads(lines[-1])
                if lines
                else {"model": spec, "status": "failed", "reasons": [made.stderr.strip()[-200:]]}
            )
        except subprocess.TimeoutExpired:
            row = {"model": spec, "status": "failed", "reasons": [f"over {TIMEOUT} s"]}
        row["process_s"] = round(time.perf_counter() - began, 1)
        results.parent.mkdir(exist_ok=True)
        with results.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)


def read(results: Path) -> list[Row]:
    """The last row of every model."""
    rows = (
        [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    )
    return list({row["model"]: row for row in rows}.values())


def page(rows: list[Row]) -> str:
    """docs/coverage.md."""
    out = [
        "# Coverage",
        "",
        "Made by `python benchmarks/coverage.py` from its `results/coverage.jsonl`.",
        "Random weights; every model cut to 60% of its multiply-adds, or to the least that is reachable plus a tenth",
        "of the rest. *Checked*: masked = shrunk (float64, relative difference at most 1e-8; float32 models 1e-4),",
        "predicted cost = recount, the shrunk model copies, trains a step and is loaded again into a fresh one. One",
        "thread. *Free heads in*: the number of attention modules whose heads may leave.",
        "",
    ]
    for source, title in (
        ("timm:", "timm: the smallest member of every family"),
        ("torchvision:", "torchvision: classifiers below 100 M parameters"),
    ):
        mine = sorted((r for r in rows if r["model"].startswith(source)), key=lambda r: r["model"])
        if not mine:
            continue
        good = [r for r in mine if r["status"] == "ok"]
        seconds = [r["seconds"] for r in good]
        counts = collections.Counter(r["status"] for r in mine)
        out += [
            f"## {title}",
            "",
            f"{len(good)} of {len(mine)} cut and checked, {counts['refused']} refused with the reason, "
            f"{counts['failed']} failed, {counts['wrong']} wrong. Seconds: median "
            f"{statistics.median(seconds):.1f}, most {max(seconds):.1f}.",
            "",
            "| model | params | may be cut | free heads in | least MACs | cut to | gap | seconds | what stays whole |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for r in mine:
            name = r["model"].removeprefix(source)
            why = "; ".join(r.get("reasons", [])[:2]).replace("|", "/")
            if r["status"] != "ok":
                out.append(
                    f"| {name} | {r.get('params', 0) / 1e6:.1f} M | **{r['status']}** | | | | | | {why} |"
                )
                continue
            out.append(
                f"| {name} | {r['params'] / 1e6:.1f} M | {r['prunable']} of {r['groups']} | {r['heads'] or ''} | "
                f"{r['least']:.1%} | {r['kept']:.1%} | {r['gap']:.0e} | {r['seconds']} | {why} |"
            )
        out.append("")
    return "\n".join(out)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("verb", choices=("run", "one", "table"))
    parser.add_argument("--source", choices=("timm", "torchvision"), default="timm")
    parser.add_argument("--models", nargs="*", default=[])
    parser.add_argument(
        "--limit", type=float, default=100.0, help="million parameters, torchvision"
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    if args.verb == "one":
        print(json.dumps(one(args.models[0])))
    elif args.verb == "run":
        listed = args.models or (families() if args.source == "timm" else vision(args.limit))
        run(listed, args.results)
    else:
        PAGE.write_text(page(read(args.results)))
        print(page(read(args.results)))


if __name__ == "__main__":
    main()
