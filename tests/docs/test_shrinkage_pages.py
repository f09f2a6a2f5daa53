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
        assert {len(trials) for trials in arms.values()} == {len(net.strengths)}
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
    key = {"kind": "tune", "net": net, "arm": arm, "epochs": 3, "renewed": True}
    return [{**key, "number": n, "0.95": v} for n, v in numbers.items()]


def test_the_best_on_validation_is_chosen_once_all_are_tried(script):
    found = script("shrinkage")
    six = dict(enumerate([0.5, 0.7, 0.9, 0.8, 0.1, 0.2]))
    tried = rows("lenet300100", "l1", six)
    assert found.best(tried, "lenet300100", "l1", 3) == 2
    with pytest.raises(SystemExit, match="5 of 6 trials at 3 epochs"):
        found.best(tried[1:], "lenet300100", "l1", 3)
    with pytest.raises(SystemExit, match="0 of 6 trials"):  # those were not in bfloat16
        found.best(tried, "lenet300100", "l1", 3, True)


def test_trials_of_other_lengths_are_not_mixed_into_the_choice(script):
    found = script("shrinkage")
    few = [{**r, "images": 1000} for r in rows("lenet300100", "l1", dict.fromkeys(range(6), 0.9))]
    all_ = [
        {**r, "images": 50_000} for r in rows("lenet300100", "l1", {n: n / 10 for n in range(6)})
    ]
    assert found.best([*few, *all_], "lenet300100", "l1", 3) == 5
    with pytest.raises(SystemExit, match="tune first"):  # six rows, but no six trials
        found.best([*few[:3], *all_[3:]], "lenet300100", "l1", 3)
    with pytest.raises(SystemExit, match="tune first"):  # norms as they were before the cut
        found.best([{**r, "renewed": False} for r in all_], "lenet300100", "l1", 3)


def test_what_was_measured_is_not_measured_again_and_its_page_is_the_published_one(script):
    found = script("shrinkage")
    stored = found.read(BENCHMARKS / "results" / "shrinkage.jsonl")
    key = found.key_of("run", "lenet300100", "magnitude", 0, 1, 6, 60_000, 10_000)
    assert found.done(stored, key)
    assert not found.done(stored, {**key, "seed": 9})
    published = (BENCHMARKS / "results" / "shrinkage.md").read_text().splitlines()
    table = [line for line in found.page(stored).splitlines() if line.startswith("|")]
    assert len(table) > 4
    assert table == [line for line in published if line.startswith("|")]


def test_a_line_of_a_table_is_one_setting_and_one_length(script):
    found = script("shrinkage")
    base = {
        "kind": "run",
        "net": "resnet20",
        "arm": "l1",
        "images": 60_000,
        "judges": 10_000,
        "renewed": True,
        **dict.fromkeys(("uncut", "0.8", "0.9", "0.95", "0.98"), 0.5),
    }
    weak, strong = ({"number": n, "settings": {"strength": s}} for n, s in ((0, 1e-5), (1, 2e-5)))
    text = found.page(
        [
            {**base, **weak, "epochs": 6, "seed": 0},
            {**base, **weak, "epochs": 6, "seed": 0},  # the same trial twice
            {**base, **weak, "epochs": 6, "seed": 1},
            {**base, **weak, "epochs": 12, "seed": 0},
            {**base, **strong, "epochs": 6, "seed": 0, "images": 5000},
        ]
    )
    assert "| l1 | strength 1e-05 | 6 | 2 |" in text
    assert "| l1 | strength 1e-05 | 12 | 1 |" in text
    assert "| l1 | strength 2e-05 | 6 of 5,000 images | 1 |" in text


def test_an_arm_without_retraining_renews_its_batch_norms(script, monkeypatch):
    found = script("shrinkage_arms")
    seen = []

    def judge(model, x, y):
        seen.append(model[1].running_mean.clone())
        return 0.5

    monkeypatch.setattr(found, "share_right", judge)

    def make():
        return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))

    x = torch.randn(64, 6) + 2
    net = found.Net(make, 0.05, 8, False, 0.0, ())
    found.one(net, found.Trial(), 0, (x, torch.arange(64) % 3), (None, None), 1)
    uncut, *cut = seen
    assert all(float((mean - uncut).abs().max()) > 0.1 for mean in cut)
    assert not torch.equal(cut[0], cut[-1])


def test_groups_have_four_trials_each_and_choose_within_the_budget(script):
    from sprig.methods.penalties.shelf import PENALTIES

    found = script("shrinkage_groups")
    assert set(found.PENALTIES) == {n for n, entry in PENALTIES.items() if entry.groups}
    assert {len(trials) for trials in found.PENALTIES.values()} == {4}
    for name, trials in found.PENALTIES.items():
        assert all(type(t) is PENALTIES[name].config for t in trials)
    alike = {"penalty": 4, "after": 2, "images": 55_000, "bf16": True}
    base = {"kind": "tune", "budget": 0.5, "judges": 5000, **alike}
    figures = [(0, 0.93, 0.9), (1, 0.92, 0.45), (2, 0.91, 0.28), (3, 0.8, 0.2)]
    rows = [
        {**base, "arm": arm, "number": n, "end": end, "share": share}
        for arm in ("gates", "greg1")
        for n, end, share in figures
    ]
    assert found.best(rows, "greg1", 0.5, alike) == 0
    assert [found.best(rows, "gates", b, alike) for b in (0.95, 0.5, 0.3, 0.1)] == [0, 1, 2, 3]
    with pytest.raises(SystemExit, match="0 of 4 trials"):
        found.best(rows, "gates", 0.5, {**alike, "penalty": 8})


def test_tables_of_groups_do_not_mix_lengths(script):
    found = script("shrinkage_groups")
    row = {"kind": "run", "arm": "gates", "number": 1, "budget": 0.5, "seed": 0, "settings": {"strength": 0.05},
           "images": 55_000, "judges": 10_000, "bf16": True, "cut": 0.9, "end": 0.9,
           "macs": 1e6, "params": 1e4}  # fmt: skip
    text = found.page(
        [{**row, "penalty": 4, "after": 2}, {**row, "penalty": 8, "after": 2, "seed": 1}]
    )
    assert text.count("| gates | strength 0.05 | 1 |") == 2
    assert "4 and 2 epochs of 55,000 images" in text
    assert "8 and 2 epochs of 55,000 images" in text


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
           "macs": 15e6, "params": 1e5, "ms_1": {"small_ms": 2.5, "ratio": 0.5}}  # fmt: skip
    assert "| refit | – | 1 | – | 93.0 (93.0 to 93.0) |" in groups.page([one])
    assert "2.50 (0.50) | – |" in groups.page([one])
    assert groups.settled(groups.PENALTIES["increg"][0], 0.25).keep == 0.5
