"""torch-pruning and torch-kirigami beside sprig on the models of coverage.py: what is handled, how fast, and right.

    python benchmarks/peers.py run                             results/peers.jsonl, one process per model and tool
    python benchmarks/peers.py run --arms sprig torch-pruning --models timm:levit_128s
    python benchmarks/peers.py adopt                           what coverage.py found, where sprig was not run here
    python benchmarks/peers.py table                           results/peers.md

Random weights, every tool as its own documentation shows it, no help for single models. Each may use `--limit` seconds
of processor time for trace + plan + shrink; checks come after the clock has stopped. One thread. What is on file is
left out, so that a run can be continued.
"""

import argparse
import collections
import contextlib
import copy
import importlib.metadata
import importlib.util
import itertools
import json
import math
import multiprocessing
import os
import re
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from coverage_checks import planned
from coverage_models import example_for, families, vision
from peers_judge import CLOSE, distinct, judge, said_by, usable
from peers_page import adopted
from torch import Tensor, nn

ROOT = Path(__file__).parent
RESULTS = ROOT / "results" / "peers.jsonl"
PAGE = ROOT / "results" / "peers.md"
LIMIT = 60.0  # seconds of processor time
SHARE = 0.6
RATIO = round(
    1 - math.sqrt(SHARE), 4
)  # of a layer's inputs and outputs, for that share of multiply-adds

Row = dict[str, Any]
Settings = dict[str, Any]

# by path: a distribution of that name may be installed
_found = importlib.util.spec_from_file_location("coverage_bench", ROOT / "coverage.py")
assert _found is not None and _found.loader is not None
bench = importlib.util.module_from_spec(_found)
_found.loader.exec_module(bench)


class TimeUp(BaseException):
    """The processor time that a tool may use is over; no tool catches it by mistake."""


# ---- the tools -----------------------------------------------------------------------------------
def sprig_arm(model: nn.Module, x: Tensor, settings: Settings) -> nn.Module:
    """As in coverage.py: random units, at 60% of the multiply-adds or as near as the groups allow."""
    import sprig
    from sprig.core.surgery import shrink

    graph = sprig.trace(model, (x,))
    if not graph.prunable:
        reasons = collections.Counter(g.reason.split(";")[0] for g in graph.groups if g.reason)
        raise ValueError(f"nothing may be cut: {reasons.most_common(1)}")
    return shrink(model, planned(graph)[0], graph)


def torch_pruning_arm(model: nn.Module, x: Tensor, settings: Settings) -> nn.Module:
    """The recipe of its README; heads told and written back as in its example for timm models."""
    import torch_pruning as tp

    classes = getattr(model, "num_classes", 1000)
    heads = {}
    for module in model.modules():
        for name in ("qkv", "qkv_proj"):
            layer = getattr(module, name, None)
            if isinstance(getattr(module, "num_heads", None), int) and isinstance(layer, nn.Module):
                heads[layer] = module.num_heads
    last = [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == classes]
    last += [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.out_channels == classes]
    pruner = tp.pruner.BasePruner(
        model,
        x[:1],
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=RATIO,
        ignored_layers=last,
        num_heads=heads,
        in_channel_groups={},  # its defaults are shared by all calls
        out_channel_groups={},
        **settings,
    )
    pruner.step()
    for module in model.modules():
        for name in ("qkv", "qkv_proj"):
            layer = getattr(module, name, None)
            if layer in heads:
                module.num_heads = heads[layer]
                module.head_dim = layer.out_features // (3 * module.num_heads)
                if hasattr(module, "attn_dim"):  # younger than the example
                    module.attn_dim = module.num_heads * module.head_dim
    return model


def kirigami_arm(model: nn.Module, x: Tensor, settings: Settings) -> nn.Module:
    """The quick start of its README; where it says what it can reach, that is asked for."""
    from torch_kirigami import DependencyGraph
    from torch_kirigami.pruning import (
        Greedy,
        GroupMagnitude,
        ParameterBudget,
        PlanningError,
        Pruner,
    )

    graph = DependencyGraph.build(model, args=(x,))
    pruner = Pruner(model, graph=graph)
    space = pruner.discover_candidates()
    strategy = Greedy(GroupMagnitude(p=2))
    most = ParameterBudget.from_ratio(model, round(1 - SHARE, 4))
    try:
        return pruner.prune(space, budget=most, strategy=strategy)[0]
    except PlanningError as error:
        reached = re.search(r"Parameter target not reached: (\d+) remain", str(error))
        if reached is None:
            raise
        if int(reached[1]) == sum(p.numel() for p in model.parameters()):
            raise ValueError(
                f"nothing may be cut: {str(error).split('exclusions: ')[-1]}"
            ) from None
        least = ParameterBudget(max_params=int(reached[1]))
    return pruner.prune(space, budget=least, strategy=strategy)[0]


ARMS: dict[str, tuple[Callable[[nn.Module, Tensor, Settings], nn.Module], list[Settings]]] = {
    "sprig": (sprig_arm, [{}]),
    # the second where the first fails: its README recommends it
    "torch-pruning": (torch_pruning_arm, [{}, {"round_to": 8}]),
    "torch-kirigami": (kirigami_arm, [{}]),
}
NEEDS = {  # imported before the clock starts
    "sprig": ("sprig.core.tracing", "sprig.core.surgery", "sprig.core.path"),
    "torch-pruning": ("torch_pruning",),
    "torch-kirigami": ("torch_kirigami", "torch_kirigami.pruning"),
}


# ---- one model, one tool -------------------------------------------------------------------------
@contextlib.contextmanager
def allowed(seconds: float) -> Iterator[None]:
    """Raises TimeUp once the process has used so many seconds of processor time."""

    def stop(*_: Any) -> None:
        raise TimeUp

    signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds, 5.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def handled(spec: str, arm: str, limit: float) -> Row:
    """Build, cut, check."""
    from sprig.core.tracing import stirred
    from sprig.models import specs
    from sprig.testing.checks import counted, parameters

    for name in NEEDS[arm]:
        importlib.import_module(name)
    if arm == "torch-pruning" and spec.startswith("timm:"):  # as in its example
        from timm.layers import set_fused_attn

        set_fused_attn(False)
    torch.manual_seed(0)
    dense = distinct(stirred(specs.build(spec).eval()))
    x = example_for(spec, dense)
    row: Row = {"params": parameters(dense)}
    make, attempts = ARMS[arm]
    for settings in attempts:
        model = copy.deepcopy(dense)
        cpu, wall = time.process_time(), time.perf_counter()
        try:
            with allowed(limit):
                small = make(model, x, settings)
        except TimeUp as error:
            frames = traceback.extract_tb(error.__traceback__)
            where = next((f.line for f in frames if f.name == make.__name__), "")
            return row | {"status": "timeout", "reason": f"over {limit:.0f} s, at {where}"}
        except Exception as error:
            row |= {"status": "failed", "reason": said_by(error)}
            continue
        row |= {
            "seconds": round(time.process_time() - cpu, 2),
            "wall_s": round(time.perf_counter() - wall, 2),
        }
        try:
            with allowed(10 * limit):
                wrong = usable(dense, small, x)
                if wrong:
                    row |= {"status": "failed", "reason": wrong}
                    continue
                macs = [counted(m, (x,), {})[1] for m in (dense, small)]
                row |= {"kept": round(macs[1] / macs[0], 3), **judge(dense, small, x)}
        except TimeUp:
            return row | {"status": "unchecked", "reason": "the checks took too long"}
        row.pop("reason", None)
        row |= {"settings": settings, "kept_params": round(parameters(small) / row["params"], 3)}
        if row["kept"] > 0.995 and row["kept_params"] > 0.995:
            return row | {"status": "failed", "reason": "nothing was removed"}
        return row | {"status": "wrong" if row["same"] == "no" else "handled"}
    return row


def child(spec: str, arm: str, limit: float, pipe: Any) -> None:
    """The process of one model and tool."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with open(os.devnull, "w") as nowhere:
        with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            try:
                row = handled(spec, arm, limit)
            except Exception as error:
                row = {"status": "failed", "reason": f"in the benchmark: {said_by(error)}"}
        pipe.send(row)
        pipe.close()


def one(spec: str, arm: str, limit: float) -> Row:
    """In a process of its own, forked, so that what all of them import is imported once."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=child, args=(spec, arm, limit, theirs))
    began = time.perf_counter()
    process.start()
    theirs.close()
    row: Row = {"status": "failed", "reason": "the process died"}
    try:
        if ours.poll(60 * limit):  # a crowded machine may be slow; nothing may hang
            row = ours.recv()
        else:
            process.kill()
            row = {"status": "timeout", "reason": "no answer"}
    except EOFError:
        process.join()
        row["reason"] += f" (exit {process.exitcode})"
    process.join()
    version = "this tree" if arm == "sprig" else importlib.metadata.version(arm)
    row["process_s"] = round(time.perf_counter() - began, 1)
    return {"model": spec, "arm": arm, "version": version, "limit": limit, **row}


# ---- many ----------------------------------------------------------------------------------------
def listed() -> list[str]:
    """timm's families and torchvision's in turn, smallest first, then what else torchvision has."""
    from torchvision import models

    timm, others, heads = families(), vision(100), {}
    for spec in others:
        heads.setdefault(models.get_model_builder(spec.split(":")[1]).__module__, spec)
    pairs = itertools.zip_longest(timm, heads.values())
    first = [spec for pair in pairs for spec in pair if spec is not None]
    return first + [s for s in others if s not in first]


def read(results: Path) -> tuple[list[str], list[Row]]:
    """The list of models, and the last row of every model and tool."""
    lines = (
        [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    )
    models = [row["listed"] for row in lines if "listed" in row]
    rows = {(row["model"], row["arm"]): row for row in lines if "arm" in row}
    return models[-1] if models else [], list(rows.values())


def run(models: list[str], arms: list[str], limit: float, results: Path) -> None:
    """Every model with every tool; those on file already are left out."""
    import timm  # noqa: F401  here: every process needs them
    import torchvision  # noqa: F401

    torch.set_num_threads(1)
    known, rows = read(results)
    results.parent.mkdir(exist_ok=True)
    if not known:
        known = listed()
        with results.open("a") as file:
            file.write(json.dumps({"listed": known}) + "\n")
    done = {(row["model"], row["arm"]) for row in rows if "source" not in row}
    for spec, arm in itertools.product(models or known, arms):
        if (spec, arm) not in done:
            row = one(spec, arm, limit)
            with results.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)


def adopt(coverage: Path, results: Path) -> None:
    """sprig's rows of coverage.py where others were tried and it was not run here."""
    rows = read(results)[1]
    here = {row["model"] for row in rows if row["arm"] == "sprig" and "source" not in row}
    asked = {row["model"] for row in rows if row["arm"] != "sprig"} - here
    kept = [line for line in results.read_text().splitlines() if "source" not in json.loads(line)]
    with results.open("w") as file:
        file.writelines(f"{line}\n" for line in kept)
        for row in bench.read(coverage):
            if row["model"] in asked:
                file.write(json.dumps(adopted(row, LIMIT, CLOSE)) + "\n")


def main() -> None:
    plain = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("verb", choices=("run", "adopt", "table"))
    parser.add_argument("--models", nargs="*", default=[])
    parser.add_argument("--arms", nargs="*", choices=tuple(ARMS), default=list(ARMS))
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds of processor time")
    parser.add_argument("--coverage", type=Path, default=bench.RESULTS)
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    if args.verb == "run":
        run(args.models, args.arms, args.limit, args.results)
    elif args.verb == "adopt":
        adopt(args.coverage, args.results)
    else:
        from peers_page import page

        PAGE.write_text(page(*read(args.results), list(ARMS)))
        print(PAGE.read_text())


if __name__ == "__main__":
    main()
