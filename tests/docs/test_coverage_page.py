"""docs/coverage.md is what benchmarks/coverage.py makes of its results, and the results hold what the page says."""

import importlib.util
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
FAMILIES = ("bert", "distilbert", "vit", "clip", "t5", "gpt2", "llama", "whisper")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))  # by its file: a tool has this name too
    spec = importlib.util.spec_from_file_location("coverage_bench", ROOT / "benchmarks/coverage.py")
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_the_page_is_made_from_the_results(bench: Any) -> None:
    rows, runs = bench.read(bench.RESULTS), bench.read(bench.RUNS)
    assert len(rows) > 60
    assert (ROOT / "docs/coverage.md").read_text() == bench.page(rows, runs)
    for row in rows:
        if row["status"] == "ok":
            assert row["gap"] <= (1e-8 if row["precision"] == "float64" else 1e-4)
            assert row["recount"] and row["reloaded"] and row.get("trained", True)
        else:
            assert row["reasons"]
    for row in runs:
        if row["status"] == "ok":
            assert row["reloaded"] and row["verified"] and not row["failed"]
            assert row["kept"] <= max(0.6, row["least"] + 0.1 * (1 - row["least"])) + 1e-3
        else:
            assert row.get("reasons") or row["failed"]


@pytest.mark.parametrize("kind", ["RESULTS", "RUNS"])
def test_all_sources_are_in_the_tables(bench: Any, kind: str) -> None:
    """Each source, and of transformers each family."""
    rows = bench.read(getattr(bench, kind))
    cases = [bench.case_of(row["model"]) for row in rows if row["status"] == "ok"]
    counts = Counter(case.source for case in cases)
    assert set(counts) == set(bench.SOURCES)
    assert counts["timm"] >= 3 and counts["torchvision"] >= 2
    built = " ".join(case.spec for case in cases if case.source == "hf")
    assert all(f"hf:{family}" in built for family in FAMILIES)
