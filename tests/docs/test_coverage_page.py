"""docs/coverage.md is what benchmarks/coverage.py makes of its results, and the results hold what the page says."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_is_made_from_the_results() -> None:
    spec = importlib.util.spec_from_file_location("coverage_bench", ROOT / "benchmarks/coverage.py")
    assert spec is not None and spec.loader is not None
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    rows = bench.read(ROOT / "benchmarks/results/coverage.jsonl")
    assert len(rows) > 60
    assert (ROOT / "docs/coverage.md").read_text() == bench.page(rows)
    for row in rows:
        if row["status"] == "ok":
            assert row["gap"] <= (1e-8 if row["precision"] == "float64" else 1e-4)
            assert row["recount"] and row["reloaded"]
        else:
            assert row["reasons"]
