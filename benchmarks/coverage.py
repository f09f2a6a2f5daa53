"""Which models people have can be cut out of the box: every timm family, torchvision, transformers, a YOLO kind.

    python benchmarks/coverage.py run --source timm            results/coverage.jsonl, one process per model
    python benchmarks/coverage.py run --source torchvision --limit 100
    python benchmarks/coverage.py run --source hf              also: segmentation, detection, yolo
    python benchmarks/coverage.py run --models timm:levit_128s hf:gpt2 'hf:bert?num_hidden_layers=2'
    python benchmarks/coverage.py run --whole                  results/coverage_runs.jsonl, see below
    python benchmarks/coverage.py table                        docs/coverage.md

Each model, random weights: traced, cut to 60% of its multiply-adds (or as far as it goes), masked = shrunk in float64,
costs recounted, deep-copied, trained one step, and loaded into a fresh model by the shapes and numbers that a run
folder keeps. One thread; the seconds are those of all of it. A sample of all sources (or --models) with --whole:
searched, pruned, certified, saved, loaded and verified as users do it.
"""

import argparse
import importlib
import json
import multiprocessing
import resource
import traceback
import warnings
from pathlib import Path
from typing import Any

import torch
from coverage_checks import handled, pruned
from coverage_models import SOURCES, WHOLE, case_of, listed
from coverage_page import page

ROOT = Path(__file__).parent
RESULTS, RUNS = ROOT / "results" / "coverage.jsonl", ROOT / "results" / "coverage_runs.jsonl"
PAGE = ROOT.parent / "docs" / "coverage.md"
TIMEOUT = 300  # seconds of the processor, for one model
NEEDS = {"timm": ("timm",), "hf": ("transformers",), "yolo": ()}  # else torchvision

Row = dict[str, Any]


def one(model: str, whole: bool) -> Row:
    """One model, whatever happens."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    case = case_of(model)
    try:
        return pruned(case) if whole else handled(case)
    except Exception as error:
        text = str(error).strip().split("\n")[0]
        where = traceback.extract_tb(error.__traceback__)[-1]
        said = f"{type(error).__name__}: {text[:200]} ({Path(where.filename).name}:{where.lineno})"
        refused = type(error).__module__.startswith("sprig")
        return {
            "model": model,
            "source": case.source,
            "status": "refused" if refused else "failed",
            "reasons": [said],
        }


def child(model: str, whole: bool, pipe: Any) -> None:
    """The process of one model."""
    resource.setrlimit(resource.RLIMIT_CPU, (TIMEOUT, TIMEOUT))
    pipe.send(one(model, whole))


def run(models: list[str], whole: bool, results: Path) -> None:
    """Every model in a process of its own, forked, so that what all import is imported once; not those on file."""
    torch.set_num_threads(1)
    done = {row["model"] for row in read(results)}
    fork = multiprocessing.get_context("fork")
    for model in (m for m in models if m not in done):
        source = case_of(model).source
        for name in ("sprig", "sprig.workflow", *NEEDS.get(source, ("torchvision",))):
            importlib.import_module(name)
        ours, theirs = fork.Pipe(duplex=False)
        process = fork.Process(target=child, args=(model, whole, theirs))
        process.start()
        theirs.close()
        try:
            row = ours.recv()
        except EOFError:  # it was ended
            process.join()
            said = f"ended with {process.exitcode}, perhaps after {TIMEOUT} s"
            row = {"model": model, "source": source, "status": "failed", "reasons": [said]}
        process.join()
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("verb", choices=("run", "one", "table"))
    parser.add_argument("--source", choices=SOURCES, default="timm")
    parser.add_argument("--models", nargs="*", default=[])
    parser.add_argument(
        "--whole", action="store_true", help="a whole run of each, not surgery alone"
    )
    parser.add_argument(
        "--limit", type=float, default=100.0, help="million parameters, torchvision"
    )
    parser.add_argument("--results", type=Path, help="another file of results to add to")
    args = parser.parse_args()
    results = args.results or (RUNS if args.whole else RESULTS)
    if args.verb == "one":
        print(json.dumps(one(args.models[0], args.whole)))
    elif args.verb == "run":
        asked = args.models or (WHOLE if args.whole else listed(args.source, args.limit))
        run(list(asked), args.whole, results)
    else:
        made = page(read(args.results or RESULTS), read(RUNS))
        PAGE.write_text(made)
        print(made)


if __name__ == "__main__":
    main()
