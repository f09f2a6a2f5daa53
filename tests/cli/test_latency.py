"""Budgets of time on the command line: one clear line for bad input, a run that says what was measured."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sprig.workflow import speed as speeding

SPEC = ["--model", "sprig:lenet-5", "--data", "digits", "--images", "64", "--image-size", "28"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--latency", "0"], "--latency is 0; expected a fraction of the dense latency in (0, 1]"),
        (["--latency", "1.5"], "--latency is 1.5; expected a fraction of the dense latency"),
        (["--latency", "-0.5"], "--latency is -0.5; expected a fraction"),
        (["--latency-ms", "-8"], "--latency-ms is -8; expected milliseconds above 0"),
        (["--latency", "0.5", "--batch", "0"], "timing batch=0: expected a number of at least 1"),
        (["--latency", "0.5", "--dtype", "int4"], "timing dtype='int4'; known are float32"),
        (["--latency", "0.5", "--backend", "x"], "timing backend='x'; known are eager"),
        (["--macs", "0.5", "--batch", "4"], "--batch without a budget of latency; add --latency"),
    ],
)
def test_bad_input(
    refused: Callable[..., str], tmp_path: Path, flags: list[str], message: str
) -> None:
    assert message in refused("prune", *SPEC, *flags, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_below_what_is_reachable_and_one_above(
    refused: Callable[..., str],
    answer: Callable[..., dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SPRIG_CACHE", str(tmp_path / "times"))
    common = [*SPEC, "--method", "magnitude", "--rounds", 3, "--seconds", 0.1, "--threads", 1]
    line = refused("prune", *common, "--latency-ms", "1e-6", "--out", tmp_path / "no")
    assert (
        "is below what is reachable" in line
        and " ms of " in line
        and not (tmp_path / "no").exists()
    )
    answer("prune", *common, "--latency-ms", 1e4, "--batch", 2, "--out", tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["command"]["timing"]["batch"] == 2
    assert (
        config["latency"]["setting"]["batch"] == 2 and config["latency"]["measured"]["pairs"] >= 7
    )
    assert list((tmp_path / "times").glob("times-*.json"))
    found = answer("verify", tmp_path / "run")
    assert found["passed"], "no figure of time is measured again"


def figures(small_ms: float) -> dict[str, float]:
    ratio = small_ms / 1e4
    return {
        "dense_ms": 1e4, "small_ms": small_ms, "ratio": ratio, "low": ratio, "high": ratio, "pairs": 9
    }  # fmt: skip


def test_a_missed_budget_is_no_success(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sprig: Callable[..., Any]
) -> None:
    monkeypatch.setenv("SPRIG_CACHE", str(tmp_path / "times"))
    spec = ["--model", "sprig:lenet-5", "--data", "digits", "--images", 64, "--image-size", 28]
    spec += ["--method", "magnitude", "--rounds", 3, "--seconds", 0, "--threads", 1]
    for took, status in ((5e3, 0), (9e3, 1)):
        monkeypatch.setattr(speeding, "compare", lambda *a, took=took, **k: figures(took))
        run = tmp_path / f"run{status}"
        done = sprig("prune", *spec, "--latency-ms", 6e3, "--out", run)
        assert done.exit_code == status, done.output
        again = sprig("verify", run)
        assert again.exit_code == status
        assert ("all" in again.output) == (status == 0)
        assert "measured once, not rechecked" in " ".join(again.output.split())
