"""Groups that stay whole on request."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import sprig
from sprig.core.errors import InputError, StoreError
from sprig.core.folder import RunFolder


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)
    ).eval()


X = torch.randn(64, 6, generator=torch.Generator().manual_seed(1))
HALF = sprig.Budget(macs=0.5)


@pytest.mark.parametrize("method", ["refit", "magnitude"])
def test_what_is_excluded_stays_whole_and_the_budget_is_met(method: str, tmp_path: Path) -> None:
    result = sprig.prune(
        net(), (X[:2],), [X], HALF, method=method, exclude=("0",), folder=tmp_path / "a"
    )
    assert set(result.plan.keep) == {"2"}
    assert result.model[0].out_features == 16 and result.model[2].out_features < 16
    assert result.after.macs <= 0.5 * result.before.macs
    assert sprig.verify(tmp_path / "a", net(), [X]).passed


def test_a_run_goes_on_with_the_exclusions_it_was_begun_with(tmp_path: Path) -> None:
    options: dict[str, Any] = {"method": "magnitude", "folder": tmp_path / "a"}
    sprig.prune(net(), (X[:2],), [X], HALF, **options)
    folder = RunFolder(tmp_path / "a")
    (folder / "state").mkdir()
    settings = {
        "method": "magnitude",
        "config": {"norm": 2},
        "budget": {"macs": 0.5},
        "round_to": 1,
        "alike": False,
    }
    folder.keep("settings", {**settings, "exclude": ["0"], "seed": 0})
    with pytest.raises(StoreError, match=r"exclude = \['0'\], now it is \['2'\]"):
        sprig.prune(net(), (X[:2],), [X], HALF, resume=True, exclude=("2",), **options)


def test_patterns_that_fit_nothing_and_budgets_out_of_reach_are_refused() -> None:
    with pytest.raises(
        InputError, match=r"exclude='layer9' fits no group; the names are like 0, 2"
    ):
        sprig.prune(net(), (X[:2],), [X], HALF, exclude=("layer9",))
    with pytest.raises(InputError, match="excluded on request"):
        sprig.prune(net(), (X[:2],), [X], HALF, exclude=("*",))
    with pytest.raises(InputError, match="below what is reachable"):
        sprig.prune(net(), (X[:2],), [X], sprig.Budget(macs=0.1), exclude=("2",))
    path = sprig.search(net(), (X[:2],), [X], exclude=("2",))
    assert set(path.groups) == {"0"}
