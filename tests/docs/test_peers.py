"""benchmarks/peers*: the judge tells right from wrong, and the page is what the results say."""

import copy
import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sprig.core.tracing import stirred

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("peers")


class Net(nn.Module):
    def __init__(self, norm: type[nn.Module]) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(3, 4), norm(4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.first(x)).relu())


def cut(dense: Net, stays: list[int], read: list[int]) -> Net:
    """`stays` of the hidden features, of which the last layer takes the columns `read`."""
    small = copy.deepcopy(dense)
    for tensor in ("weight", "bias"):
        for module in (small.first, small.norm):
            setattr(module, tensor, nn.Parameter(getattr(module, tensor).detach()[stays]))
    small.last.weight = nn.Parameter(small.last.weight.detach()[:, read])
    if isinstance(small.norm, nn.LayerNorm):
        small.norm.normalized_shape = (len(stays),)
    else:
        small.norm.running_mean = dense.norm.running_mean[stays]
        small.norm.running_var = dense.norm.running_var[stays]
    return small


@pytest.fixture
def x() -> Tensor:
    return torch.randn(5, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("norm", "read", "same"),
    [
        (nn.BatchNorm1d, [0, 2, 3], "yes"),
        (nn.BatchNorm1d, [0, 1, 3], "no"),  # a column of a feature that left
        (nn.BatchNorm1d, [3, 2, 0], "no"),  # the right ones in the wrong order
        (nn.LayerNorm, [0, 2, 3], "but for norms"),
        (nn.LayerNorm, [0, 1, 3], "no"),
    ],
)
def test_judge(bench: Any, x: Tensor, norm: type[nn.Module], read: list[int], same: str) -> None:
    torch.manual_seed(0)
    dense = bench.distinct(stirred(Net(norm).eval()))
    small = cut(dense, [0, 2, 3], read)
    row = bench.judge(dense, small, x)
    assert row["same"] == same
    assert row["precision"] == "float64"
    assert (row["gap"] <= 1e-8) == (same == "yes")
    assert bench.usable(dense, small, x) == ""


def test_weights_that_are_not_the_dense_ones_are_not_judged(bench: Any, x: Tensor) -> None:
    dense = bench.distinct(stirred(Net(nn.BatchNorm1d).eval()))
    small = cut(dense, [0, 1], [0, 1])
    with torch.no_grad():
        small.last.weight.mul_(1.5)
    assert bench.judge(dense, small, x)["same"] == "unknown"


def test_what_cannot_be_used_is_said(bench: Any, x: Tensor) -> None:
    dense = Net(nn.BatchNorm1d).eval()
    assert bench.usable(dense, cut(dense, [0, 1, 2], [0, 1]), x).startswith("does not run: ")
    other = copy.deepcopy(dense)
    other.last = nn.Linear(4, 1)
    assert bench.usable(dense, other, x).startswith("outputs [(5, 1)]")


def test_distinct_moves_equal_elements_apart_and_hardly_at_all(bench: Any) -> None:
    layer = nn.Linear(40, 40)
    with torch.no_grad():
        layer.weight.copy_(layer.weight.mul(8).round().div(8))  # negative, zero and positive ones
    before = layer.weight.detach().clone()
    bench.distinct(layer)
    assert len(layer.weight.unique()) == layer.weight.numel()
    torch.testing.assert_close(layer.weight.detach(), before, rtol=1e-3, atol=1e-30)
    assert torch.equal(layer.weight.detach().flatten()[before.flatten().argsort(stable=True)].sort()[0],
                       layer.weight.detach().flatten()[before.flatten().argsort(stable=True)])  # fmt: skip


def test_the_time_is_the_processors(bench: Any) -> None:
    def spin() -> None:
        while True:
            pass

    with pytest.raises(bench.TimeUp), bench.allowed(0.2):
        spin()


def test_the_page_is_made_from_the_results(bench: Any) -> None:
    page = importlib.import_module("peers_page").page
    listed, rows = bench.read(ROOT / "benchmarks/results/peers.jsonl")
    assert len(listed) > 150
    assert {row["arm"] for row in rows} == set(bench.ARMS)
    assert (ROOT / "benchmarks/results/peers.md").read_text() == page(
        listed, rows, list(bench.ARMS)
    )
    for row in rows:
        if row["status"] == "handled":
            assert row["same"] in ("yes", "but for norms", "unknown")
            assert "source" in row or row["seconds"] <= row["limit"] * 1.2
        else:
            assert row["status"] == "wrong" or row["reason"]
