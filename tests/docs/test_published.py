"""Published and promised figures, made anew at full size (slow; `make reproduce`)."""

import argparse
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def test_the_regression_of_the_distributed_paper() -> None:
    """Khanna et al. 2017: their design; what is expected of each rule is of an earlier trial of the same design."""
    ar1 = importlib.import_module("ar1")
    args = argparse.Namespace(features=1000, rows=800, true=100, picks=75, pairs=200)
    found, _ = ar1.run(0, args)
    fit = {name: row[0] for name, row in found.items()}
    calls = {name: row[4] for name, row in found.items()}  # one after another
    for parts in (2, 10):
        assert fit[f"distributed, {parts} parts"] >= 0.98 * fit["exact"]
    assert fit["random"] < 0.6 * fit["exact"]
    deltas = [fit[f"stochastic, delta {d}"] for d in ("0.001", "0.01", "0.1", "0.5")]
    assert fit["exact"] > deltas[0] and deltas == sorted(deltas, reverse=True)
    for name, (r2, _, count) in ar1.EXPECTED.items():
        assert fit[name] == pytest.approx(r2, abs=0.08), name
        if count is not None:
            assert calls[name] == pytest.approx(count, rel=0.05), name  # parts are drawn


def test_forward_selection_beside_scikit_learn(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("sklearn")
    module = importlib.import_module("forward_selector")
    out = tmp_path / "page.md"
    monkeypatch.setattr("sys.argv", ["forward_selector.py", "--out", str(out)])
    module.main()
    text = out.read_text()
    assert "Same features: yes" in text
    times = re.search(r"Times faster: ([\d,]+) by the processor", text)
    assert times is not None and int(times[1].replace(",", "")) >= 20
