"""results/latency.md is what its rows say."""

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2] / "benchmarks"


def test_the_page_is_made_from_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    made = importlib.import_module("latency_page")
    rows = made.read()
    text = made.page(rows)
    assert (ROOT / "results" / "latency.md").read_text() == text
    assert {str(row["run"]) for row in rows} == set(made.RUNS)
    last = rows[-1]["latency"]
    assert f"| {last['measured']['ratio']:.3f} | {last['macs']:.1%} |" in text
    assert made.page(rows[:-1]) != text, "a row that is missing is missed"
