"""The scripts behind the tables of learned shrinkage: schedules, choices and tables, without any training."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def load(name: str) -> ModuleType:
        sys.modules.pop(name, None)
        return importlib.import_module(name)

    return load


def test_every_arm_has_the_same_number_of_trials(script):
    found = script("shrinkage_arms")
    for net in found.NETS.values():
        arms = found.arms(net)
        assert len(arms.pop("magnitude")) == 1
        assert {len(trials) for trials in arms.values()} == {6}
        assert net.make()(torch.randn(2, 1, 28, 28)).shape == (2, 10)


def test_zeros_of_the_gradual_arm_grow_to_the_goal_and_stay(script):
    found = script("shrinkage_arms")
    from sprig.training import TrainConfig, train

    x = torch.randn(8, 6)
    data = [(x, torch.arange(8) % 3)] * 10
    net = nn.Sequential(nn.Linear(6, 30), nn.ReLU(), nn.Linear(30, 3))
    seen = []

    def watch(moment, run):
        if moment.name == "STEP_CLOSES":
            seen.append(
                sum(int((p == 0).sum()) for p in run.model.parameters() if p.ndim > 1) / 270
            )

    grow = found.Gradual(goal=0.9, end=0.5, every=2)
    train(net, data, config=TrainConfig(epochs=2, lr=0.05, warmup=0.0), hooks=[watch, grow])
    law = [0.9 * (1 - (1 - min(1.0, t / 10)) ** 3) for t in range(1, 21)]
    for step in range(2, 21, 2):
        assert seen[step - 1] == pytest.approx(law[step - 1], abs=0.01)
    assert seen[-1] == pytest.approx(0.9, abs=0.005)


def rows(net: str, arm: str, numbers: dict[int, float]) -> list[dict]:
    key = {"kind": "tune", "net": net, "arm": arm, "epochs": 3}
    return [{**key, "number": n, "0.95": v} for n, v in numbers.items()]


def test_the_best_on_validation_is_chosen_once_all_are_tried(script):
    found = script("shrinkage")
    six = dict(enumerate([0.5, 0.7, 0.9, 0.8, 0.1, 0.2]))
    assert found.best(rows("resnet20", "l1", six), "resnet20", "l1", 3) == 2
    with pytest.raises(SystemExit, match="5 of 6 trials at 3 epochs"):
        found.best(rows("resnet20", "l1", six)[1:], "resnet20", "l1", 3)


def test_the_tables_hold_every_run(script):
    found = script("shrinkage")
    base = {
        "kind": "run",
        "net": "lenet300100",
        "arm": "l1",
        "epochs": 6,
        "settings": {"strength": 1e-4},
    }
    values = {"uncut": 0.88, "0.8": 0.879, "0.9": 0.878, "0.95": 0.87, "0.98": 0.8}
    text = found.page([{**base, **values, "seed": 0}, {**base, **values, "0.95": 0.86, "seed": 1}])
    assert "## lenet300100" in text
    assert "| l1 | strength 0.0001 | 6 | 2 |" in text
    assert "86.5 (86.0 to 87.0)" in text
    units = script("shrinkage_units")
    row = {"kind": "run", "seed": 0, "arm": "increg", "dense": 0.892, "left": 0.886, "end": 0.889, "removed": 0.889,
           "macs": 48_440, "fc1": 60, "fc2": 20}  # fmt: skip
    assert "0.60 (0.60 to 0.60)" in units.page([row])  # at the step of removal, not after it
    groups = script("shrinkage_groups")
    one = {"kind": "run", "arm": "refit", "budget": 0.5, "seed": 0, "settings": {}, "cut": 0.93, "end": 0.935,
           "macs": 15e6, "params": 1e5, "ms_1": {"median": 2.5}}  # fmt: skip
    assert "| refit | – | 1 | – | 93.0 (93.0 to 93.0) |" in groups.page([one])
    assert "2.50 | – |" in groups.page([one])
    assert groups.settled(groups.PENALTIES["increg"][0], 0.25).keep == 0.5
