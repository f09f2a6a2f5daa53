"""Every arm has the same shape and starts where it says; the quick study and its verdict."""

import copy
from pathlib import Path

import pytest
import torch

from sprig.core.types import Budget
from sprig.studies import finetune_or_retrain as study
from sprig.studies.finetune_or_retrain_page import (
    ANEW,
    ANEW_LONG,
    LABELS,
    LONG,
    PLAIN,
    RANDOM,
    REFIT,
    SHORT,
)

QUICK = study.STUDY.quick
NET = QUICK.nets[0]


def shapes(model: torch.nn.Module) -> list[tuple[int, ...]]:
    return [tuple(p.shape) for p in model.parameters()]


def test_arms_start_where_they_say(tmp_path: Path) -> None:
    data = study.parts(QUICK)
    made = {arm: study.begin(QUICK, NET, 0, arm, data, tmp_path) for arm in (*SHORT, ANEW_LONG)}
    dense, plan, _ = study.reference(QUICK, NET, 0, data, tmp_path)
    assert len({tuple(shapes(m)) for m in made.values()}) == 1
    assert shapes(made[REFIT]) != shapes(dense)
    # inherited rows are rows of the dense network
    kept = set(dense.conv1.weight.flatten(1).sum(1).tolist())
    assert set(made[PLAIN].conv1.weight.flatten(1).sum(1).tolist()) <= kept
    assert set(made[RANDOM].conv1.weight.flatten(1).sum(1).tolist()) <= kept
    assert not set(made[ANEW].conv1.weight.flatten(1).sum(1).tolist()) & kept
    assert not set(made[LABELS].conv1.weight.flatten(1).sum(1).tolist()) & kept
    blank = study.untrained(QUICK, NET, 0).conv1.weight.flatten(1).sum(1).tolist()
    assert set(made[LABELS].conv1.weight.flatten(1).sum(1).tolist()) <= set(blank)
    assert torch.equal(made[ANEW].fc2.weight, made[ANEW_LONG].fc2.weight)
    costs = [
        study.prune(m, study.example(data), data.calibration, Budget(macs=1.0)).before.macs
        for m in (made[REFIT], made[RANDOM])
    ]
    assert costs[0] == costs[1] <= plan.cost["macs"]


def test_images_that_train_do_not_validate() -> None:
    data = study.parts(QUICK)
    train = {tuple(x.flatten().tolist()) for x, _ in data.calibration for x in x}
    check = {tuple(x.flatten().tolist()) for x, _ in data.check for x in x}
    assert train
    assert not train & check
    assert "fold 0/2" in data.train.description
    assert "fold 1/2" in data.check.description


def test_quick_study(quick) -> None:
    record = quick("finetune-or-retrain")
    rows = {arm: record.figures[f"{NET} 0 {arm}"] for arm in (*SHORT, *LONG)}
    assert len({row["params"] for row in rows.values()}) == 1
    assert {row["epochs"] for arm, row in rows.items() if arm in LONG} == {
        QUICK.epochs + QUICK.dense_epochs
    }
    assert rows[REFIT]["before"] > rows[ANEW]["before"]
    before, after = record.figures[f"{NET} 0 dense"]["macs"]
    assert after <= 0.5 * before
    assert all(f.holds is None for f in record.conclusion.findings), "one seed decides nothing"


def test_the_verdict_follows_the_figures(quick) -> None:
    settings = study.STUDY.quick.__class__(**{**vars(QUICK), "seeds": (0, 1, 2)})
    record = quick("finetune-or-retrain")
    made = {}
    for seed in settings.seeds:
        for name, figures in record.figures.items():
            net, _, arm = name.split(" ", 2)
            row = copy.deepcopy(figures)
            if arm != "dense":
                level = 0.9 if arm in (REFIT, PLAIN) else 0.95 if arm == ANEW_LONG else 0.8
                row["after"] = level + 0.001 * (seed if arm == REFIT else 0)
            made[f"{net} {seed} {arm}"] = row
    held = {f.claim.split(": ")[1]: f.holds for f in study.STUDY.conclude(settings, made).findings}
    assert [v for k, v in held.items() if "equal training" in k] == [True]
    assert [v for k, v in held.items() if "still do" in k] == [False]
    assert [v for k, v in held.items() if "selection on labels" in k] == [True]
    assert [v for k, v in held.items() if "which channels" in k] == [True]
    assert [v for k, v in held.items() if "stay ahead" in k] == [None]


def test_layers_are_drawn_anew(generator: torch.Generator) -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 3, 3), torch.nn.BatchNorm2d(3))
    model[1].weight.data.fill_(5.0)
    one, two = study.renewed(model, 0), study.renewed(model, 0)
    assert torch.equal(one[0].weight, two[0].weight)
    assert not torch.equal(one[0].weight, model[0].weight)
    assert bool((one[1].weight == 1).all())
    assert not torch.equal(study.renewed(model, 1)[0].weight, one[0].weight)
    with pytest.raises(KeyError):
        study.untrained(QUICK, "resnet21", 0)
