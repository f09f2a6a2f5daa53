"""One graph from the parts of a model: names, costs, and what is refused."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import sprig
from sprig.core.cost import cost
from sprig.core.errors import InputError, TraceError
from sprig.core.join import OUTSIDE, macs_outside, recounted
from sprig.core.surgery import mask_, shrink_
from sprig.core.tracing import distance
from sprig.core.trials import half_masks
from sprig.testing.branches import branching
from sprig.testing.heads import Block, Fused

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
PARTS = ["stem", "stages.0", "head"]


def counted(model: nn.Module, x: Tensor) -> int:
    """Multiply-adds per sample, by torch's own counter."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    return counter.get_total_flops() // 2 // len(x)


def test_groups_of_the_parts_side_by_side_and_the_cost_of_the_whole() -> None:
    model = branching()
    before = copy.deepcopy(model.state_dict())
    graph = sprig.trace(model, (X,), modules=["head", "stem", "stages.0"])
    assert [p.name for p in graph.parts] == PARTS  # in the order in which they run
    assert [(g.name, g.size) for g in graph.prunable] == [
        ("stem.0", 8), ("stages.0.0", 10), ("head.1", 12)
    ]  # fmt: skip
    assert [g.index for g in graph.groups] == list(range(6))
    assert [graph.consumers[g.consumers[0]].weight for g in graph.prunable] == [
        "stem.3.weight", "stages.0.2.weight", "head.3.weight"
    ]  # fmt: skip
    assert "gives it back as its output" in (graph.group("stem.3").reason or "")  # the seam
    total = cost(graph)
    assert total["params"] == sum(p.numel() for p in model.parameters())
    tensors = [*model.parameters(), *model.buffers()]
    assert total["bytes"] == sum(t.numel() * t.element_size() for t in tensors)
    assert total["macs"] == counted(model, X)
    assert [t.coefficient for t in graph.terms if t.where == OUTSIDE] == [12]  # the gate, 6 x 2
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_every_cut_gives_what_the_masked_model_gives_and_costs_what_was_said() -> None:
    model, x = branching().double(), X.double()
    graph = sprig.trace(branching(), (X,), modules="auto")
    assert [p.name for p in graph.parts] == PARTS  # not the gate: nothing can leave inside it
    for indices in ([g.index for g in graph.prunable], *([g.index] for g in graph.prunable)):
        masks = half_masks(graph, indices)
        masked = mask_(copy.deepcopy(model), masks, graph)
        small = shrink_(copy.deepcopy(model), masks, graph)
        with torch.no_grad():
            assert distance(masked(x), small(x)) <= 1e-12
            assert distance(model(x), small(x)) > 1e-3
        said = cost(graph, masks)
        assert said["params"] == sum(p.numel() for p in small.parameters())
        assert said["macs"] == counted(small.float(), X)
        assert recounted(small, graph, (X,))["macs"] == said["macs"]


def test_auto_is_the_whole_model_where_that_can_be_exported() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    graph = sprig.trace(net, (torch.randn(2, 4),), modules="auto")
    assert graph.parts == () and graph.program is not None
    assert graph.fingerprint == sprig.trace(net, (torch.randn(2, 4),)).fingerprint


class Deep(nn.Module):
    """Its only child cannot be exported; children of that can."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


def test_auto_goes_down_as_far_as_it_must() -> None:
    graph = sprig.trace(Deep(branching()), (X,), modules="auto")
    assert [p.name for p in graph.parts] == [f"inner.{name}" for name in PARTS]
    assert graph.group("inner.stem.0").producers == (
        "inner.stem.0.weight",
        "inner.stem.0.bias",
    )


class Fork(nn.Module):
    """Two linear maps in a row, and whatever `use` makes of them."""

    def __init__(self, use: Callable[["Fork", Tensor], Tensor]) -> None:
        super().__init__()
        self.part = nn.Sequential(nn.Linear(5, 9), nn.Sigmoid(), nn.Linear(9, 5))
        self.other = nn.Linear(5, 5)
        self.use = use

    def forward(self, x: Tensor) -> Tensor:
        y = self.use(self, x)
        return y if float(y.detach().sum()) < 1e9 else -y


V = torch.randn(4, 5, generator=torch.Generator().manual_seed(2))


def test_auto_with_nothing_to_find() -> None:
    with pytest.raises(TraceError, match="no submodule can be traced and pruned"):
        sprig.trace(Fork(lambda m, x: m.other(x)), (V,), modules="auto")


@pytest.mark.parametrize(
    ("names", "kind", "said"),
    [
        ([], InputError, "modules is empty"),
        (["nose"], InputError, "no submodule 'nose'; it has part, other"),
        ([""], InputError, "no submodule ''"),
        (["part", "part.0"], InputError, "'part.0' lies inside 'part'"),
        (["part", "part"], InputError, "'part' is named twice"),
        (["other"], TraceError, "'other' is not called for the example inputs"),
        ("part", TraceError, "'part' is called 2 times in one run"),
    ],
)
def test_names_that_cannot_be_parts(names: Any, kind: type[Exception], said: str) -> None:
    model = Fork(lambda m, x: m.part(m.part(x)))
    with pytest.raises(kind, match=said):
        sprig.trace(model, (V,), modules=names)


def test_a_part_that_cannot_be_exported_either() -> None:
    with pytest.raises(
        TraceError, match=r"submodule 'inner' cannot be traced alone: .*branches.py"
    ):
        sprig.trace(Deep(branching()), (X,), modules=["inner"])


def test_tensors_that_others_hold_too_stay_whole() -> None:
    model = Fork(lambda m, x: m.other(m.part(x)))
    model.register_parameter("tied", model.part[0].weight)  # type: ignore[arg-type]
    graph = sprig.trace(model, (V,), modules=["part"])
    assert "is tied too, outside of the submodule" in (graph.groups[0].reason or "")
    assert not graph.prunable and not graph.parts[0].graph.prunable
    assert cost(graph)["params"] == sum(p.numel() for p in model.parameters())


def test_what_the_rest_reads_inside_a_part_stays_whole() -> None:
    model = Fork(lambda m, x: m.part(x) + m.part[0](x).mean(1, keepdim=True))
    graph = sprig.trace(model, (V,), modules=["part"])
    assert graph.parts[0].graph.groups[0].reason is not None and not graph.prunable
    assert "something else than the masked one" in (graph.groups[0].reason or "")


def test_a_part_with_more_rows_than_the_model_has_samples_costs_as_often() -> None:
    def crops(m: Fork, x: Tensor) -> Tensor:
        return m.part(torch.cat([x, x.flip(0), -x])).reshape(3, -1, 5).mean(0)

    model = Fork(crops)
    graph = sprig.trace(model, (V,), modules=["part"])
    assert cost(graph)["macs"] == counted(model, V) == 3 * 90
    masks = {0: np.arange(9) < 4}
    small = shrink_(copy.deepcopy(model), masks, graph)
    assert cost(graph, masks)["macs"] == counted(small, V) == 3 * 40
    assert recounted(small, graph, (V,))["macs"] == 3 * 40


def test_attention_around_the_parts_is_counted() -> None:
    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.map = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            x = self.map(x)[:, None]
            return nn.functional.scaled_dot_product_attention(x, x, x)[:, 0]

    x = torch.randn(2, 7, 6)
    assert macs_outside(Attends().eval(), {}, (x,), {}) == 2 * (7 * 6 * 6 + 2 * 7 * 7 * 6)


def test_heads_inside_a_part_leave_and_its_modules_are_told() -> None:
    model = Deep(nn.Sequential(Block(Fused)))
    model.register_forward_hook(lambda m, i, y: y if float(y.detach().sum()) < 1e9 else -y)
    x = torch.randn(2, 5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    graph = sprig.trace(model, (x.float(),), modules=["inner.0"])
    assert graph.group("inner.0.attend.qkv").size == 4
    masks = {graph.group("inner.0.attend.qkv").index: np.array([True, False, False, True])}
    masked, small = (
        change(copy.deepcopy(model).double(), masks, graph) for change in (mask_, shrink_)
    )
    with torch.no_grad():
        assert distance(masked(x), small(x)) <= 1e-12
    assert small.inner[0].attend.num_heads == 2


def test_norms_inside_a_part_may_be_cut_on_demand() -> None:
    class Stream(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.norm, self.down = nn.Linear(6, 10), nn.LayerNorm(10), nn.Linear(10, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.down(self.norm(self.up(x)))

    model = Fork(lambda m, x: m.other(m.part(x)))
    model.part = Stream()
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(5))
    assert not sprig.trace(model, (x,), modules=["part"]).prunable
    graph = sprig.trace(model, (x,), modules=["part"], norms="cut")
    assert [n.weight for n in graph.norms] == ["part.norm.weight"]
    masks = half_masks(graph, [0])
    masked, small = (
        change(copy.deepcopy(model).double(), masks, graph) for change in (mask_, shrink_)
    )
    with torch.no_grad():
        assert distance(masked(x.double()), small(x.double())) <= 1e-12
    assert small.part.norm.normalized_shape == (5,)
