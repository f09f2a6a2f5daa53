"""The benchmark of greedy networks: its judge by hand, its verdict on both sides, its page from its lines."""

import argparse
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    sys.path.insert(0, str(ROOT / "benchmarks"))  # its page stands beside it
    spec = importlib.util.spec_from_file_location(
        "bench_greedy_network", ROOT / "benchmarks" / "greedy_network.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    return module


def test_picks_are_judged_as_said(bench):
    serves = torch.tensor(
        [[[1, 0, 0], [1, 0, 0], [0, 1, 1], [0, 0, 0]], [[1, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0]]]
    ).float()
    none = torch.zeros(2, 4)
    part = bench.Split(none, none > -1, serves, serves.amax(-1), none, none)
    picks = torch.tensor([[1, 1, 0, 1], [1, 1, 0, 1]]).float()
    # one of three aspects and two of two; two of three picks right both times
    covered, right = bench.judged(part, picks)
    assert covered == pytest.approx((1 / 3 + 1) / 2)
    assert right == pytest.approx(2 / 3)
    mask = torch.tensor([[True, True, True, False], [True] * 4])
    scores = torch.tensor([[1.0, 3, 2, 9], [1, 3, 2, 9]])
    assert bench.best_of(scores, mask).tolist() == [[1, 1, 1, 0], [0, 1, 1, 1]]


def test_the_verdict_goes_by_the_figures(bench):
    def told(ours: float, rival: float) -> str:
        return bench.verdict({"soft": (ours, 0.01), "sampled": (0.1, 0.0), "alone": (rival, 0.02)})

    assert "the greedy network is ahead" in told(0.8, 0.7)
    assert "the baseline wins" in told(0.7, 0.8)
    assert "no difference beyond" in told(0.7, 0.715)
    assert bench.verdict({"soft": (0.5, 0.0)}) == "Not all arms have run."


def test_claims_are_made_as_said(bench):
    task = bench.claims(argparse.Namespace(claims=50, steps=6))
    part = task.train
    assert part.x.shape == (50, 15, 90)
    assert part.gold.sum(1).tolist() == [3.0] * 50  # the strongest of each of three aspects
    many = part.serves.sum(1)
    assert set(many.flatten().tolist()) == {1.0, 2.0, 3.0}
    assert bool((part.gold <= part.serves.amax(-1)).all())
    claim, text = part.x[..., 30:60], part.x[..., :30]
    torch.testing.assert_close(part.x[..., 60:], text * claim)
    covered, right = bench.judged(part, part.gold)
    assert covered == right == 1.0
    config = bench.settings("soft", 0)
    for arm in bench.TRAINED:
        if arm != "aspects":
            found = bench.trained(arm, task, config, 1)
            assert 0 < found["right"] < 1
            assert found == bench.trained(arm, task, config, 1)  # the same seed, the same figures


def test_the_page_is_made_from_its_lines(bench):
    results = bench.RESULTS / "greedy_network.jsonl"
    made = bench.page(argparse.Namespace(results=results))
    kept = (bench.RESULTS / "greedy_network.md").read_text(encoding="utf-8")

    def tables(text: str) -> list[str]:
        return [line for line in text.splitlines() if not line.startswith("Command:")]

    assert tables(made) == tables(kept)
    arms = {way: arm for arm, way in bench.TRAINED.items()}
    for line in bench.Lines(results).rows:
        assert line["config"] == bench.settings(arms.get(line["arm"], line["arm"]), line["trial"])
