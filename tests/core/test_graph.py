"""Tracing: every topology's groups, the reasons for what may not be touched, and what must not change."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sprig.core.capture import capture
from sprig.core.errors import InputError, TraceError
from sprig.core.graph import build
from sprig.core.ops.flow import Classes, Flow
from sprig.core.ops.shape import split_merge
from sprig.core.tracing import distance, stirred, trace
from sprig.testing import hard, toys
from sprig.testing.checks import snapshot


@pytest.mark.parametrize("name", toys.names(error=False))
def test_every_topology_has_its_groups(name: str) -> None:
    toy, (net, example) = toys.TOYS[name], toys.make(name)
    graph = trace(net, example)
    assert tuple(g.name for g in graph.prunable) == toy.prunable
    reasons = [g.reason for g in graph.groups if g.reason]
    assert toy.says is None or any(toy.says in r for r in reasons), reasons
    assert len({g.name for g in graph.groups}) == len(graph.groups)


def test_data_dependent_control_flow_names_the_line() -> None:
    net, example = toys.make("control_flow")
    lines = Path(hard.__file__).read_text(encoding="utf-8").splitlines()
    number = 1 + next(i for i, text in enumerate(lines) if "if x.mean() > 0" in text)
    with pytest.raises(TraceError, match=rf"hard\.py:{number} \(forward\)"):
        trace(net, example)


class UpTo(nn.Module):
    """Keeps as many channels as it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor, count: Tensor) -> Tensor:
        return self.down(self.up(x).relu())[:, : count.max().item()].sum()


def test_a_size_that_depends_on_values_is_named_and_submodules_offered() -> None:
    with pytest.raises(TraceError, match=r"test_graph\.py:\d+: how large .*modules=\[\"up\""):
        trace(UpTo(), (torch.randn(4, 8), torch.tensor(3)))


def test_an_unknown_operation_is_named_with_module_and_line() -> None:
    net, example = toys.make("unknown")
    (note,) = [f for f in trace(net, example).frozen if "no row" in f.reason]
    assert (note.op, note.module) == ("cummax", "mixer")
    lines = Path(hard.__file__).read_text(encoding="utf-8").splitlines()
    assert "cummax" in lines[int(note.source.rpartition(":")[2]) - 1]


@pytest.mark.parametrize("training", [True, False])
def test_the_model_stays_as_it_is(training: bool) -> None:
    net, example = toys.make("auxiliary")
    net.train(training)
    net.stem.eval()  # type: ignore[operator,union-attr]
    before, given = snapshot(net), example[0].clone()
    drawn = torch.get_rng_state()
    trace(net, example)
    assert torch.equal(drawn, torch.get_rng_state()), "the user's random numbers were used up"
    assert snapshot(net) == before
    assert torch.equal(given, example[0])


def test_parts_that_only_training_runs_and_that_cannot_run_on_these_inputs_are_told() -> None:
    net, example = toys.make("auxiliary")
    net.aux.insert(0, nn.Conv2d(8, 8, 99))  # type: ignore[operator,union-attr]
    net.train()
    with pytest.warns(UserWarning, match=r"read only in training mode.*aux\.0\.weight"):
        graph = trace(net, example)
    assert not any(s.tensor.startswith("aux.0") for s in graph.slots)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_precision_does_not_matter(dtype: torch.dtype) -> None:
    net, example = toys.make("residual")
    graph = trace(net.to(dtype), (example[0].to(dtype),))
    assert tuple(g.name for g in graph.prunable) == toys.TOYS["residual"].prunable


class Insists(nn.Module):
    """Makes single precision of whatever comes."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x.float())).float())


def test_a_model_that_insists_on_its_precision_is_tried_in_it() -> None:
    assert [g.name for g in trace(Insists(), (torch.randn(2, 4),)).prunable] == ["a"]


class Together(nn.Module):
    """Either width may change, not both."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        if self.a.out_features < 8 and self.b.out_features < 8:
            raise RuntimeError("one at a time")
        return self.c(torch.relu(self.b(torch.relu(self.a(x)))))


def test_groups_that_fail_only_together_are_refused() -> None:
    graph = trace(Together(), (torch.randn(2, 4),))
    assert [g.name for g in graph.prunable] == [
        "a"
    ]  # the first may be cut, the second not beside it
    assert "does not follow" in str(graph.groups[1].reason)


class Noisy(nn.Module):
    """Draws random numbers in evaluation, too, and hides some scores behind infinity."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.b(torch.relu(self.a(x + torch.rand_like(x))))
        return y.masked_fill(torch.tensor([True, False, False]), float("-inf"))


def test_noise_and_infinite_outputs_do_not_refuse_anything() -> None:
    assert [g.name for g in trace(Noisy(), (torch.randn(2, 4),)).prunable] == ["a"]


class Minus(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.c(torch.tanh(self.a(x) - self.b(y)))


def test_one_tensor_given_for_two_inputs_is_two_inputs() -> None:
    x = torch.randn(2, 4)
    program = capture(Minus(), (x, x))
    used = [n.name for n in program.graph.nodes if n.op == "placeholder" and n.users]
    assert {"x", "y"} <= set(used)
    (group,) = trace(Minus(), (x, x)).prunable
    assert group.producers == ("a.weight", "a.bias", "b.weight", "b.bias")


def test_keyword_arguments() -> None:
    net, (image,) = toys.make("dictionary")
    graph = trace(net, (), {"flip": True, "scale": torch.ones(1), "image": image})
    assert [g.name for g in graph.prunable] == ["stem"]


def test_uneven_padding_is_refused() -> None:
    net = nn.Sequential(nn.Conv1d(2, 6, 1), nn.Conv1d(6, 4, 4, padding="same"))
    graph = trace(net, (torch.randn(2, 2, 9),))
    assert "pads unevenly" in str(graph.group("0").reason)


class Weightless(nn.Module):
    """One weight for a convolution and as a plain number."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        strength = self.b.weight.mean()
        return self.c(F.relu(self.b(F.relu(self.a(x))))) * strength


def test_a_weight_that_is_also_read_whole_stays_whole() -> None:
    # `build` alone, without the trial that would find it, too
    graph = build(Weightless(), (torch.randn(2, 3, 4, 4),))
    assert not graph.prunable
    assert "b.weight is shared" in str(graph.group("a").reason)
    assert not any(s.tensor == "b.weight" for s in graph.slots)


def test_fingerprint_tells_structures_apart_and_nothing_else() -> None:
    def made(width: int, batch: int, seed: int) -> str:
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 2))
        return build(net, (torch.randn(batch, 4),)).fingerprint

    assert made(8, 2, 0) == made(8, 5, 1)
    assert made(8, 2, 0) != made(9, 2, 0)


@pytest.mark.parametrize(
    ("example", "kwargs", "message"),
    [
        (torch.zeros(2, 4), None, r"is a Tensor, expected a tuple.*e\.g\. \(x,\)"),
        ((), {"flag": True}, "holds no tensor"),
        ((torch.zeros(0, 4),), None, "is empty"),
    ],
)
def test_bad_examples_are_refused(example: Any, kwargs: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        capture(nn.Linear(4, 2), example, kwargs)
    with pytest.raises(InputError, match=message):
        trace(nn.Linear(4, 2), example, kwargs)


def test_a_list_of_inputs_is_taken_too() -> None:
    net, (x,) = toys.make("mlp")
    assert trace(net, [x]).fingerprint == trace(net, (x,)).fingerprint  # type: ignore[arg-type]


def test_a_model_that_cannot_be_copied_is_refused() -> None:
    net = nn.Linear(4, 2)
    net.kept = net(torch.randn(1, 4))  # type: ignore[assignment]  # a tensor with a history
    with pytest.raises(TraceError, match="cannot be deep-copied"):
        trace(net, (torch.randn(2, 4),))


def test_a_copy_for_trials_has_no_constant_tensor() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    nn.init.zeros_(net[0].weight)  # type: ignore[arg-type]
    live = stirred(net)
    for name, tensor in (*live.named_parameters(), *live.named_buffers()):
        if tensor.is_floating_point():
            assert float(tensor.detach().std()) > 0, name
    assert float(live[1].running_var.min()) > 0  # type: ignore[index]
    assert not net[0].weight.any()  # type: ignore[union-attr]


def test_distance() -> None:
    x = torch.tensor([1.0, -4.0])
    assert distance(x, x) == 0
    assert distance(x, x + 1) == pytest.approx(0.25)
    assert distance(x, x[:1]) == float("inf")
    assert distance(x, torch.tensor([1.0, float("nan")])) == float("inf")
    assert distance(torch.zeros(2), torch.zeros(2)) == 0
    assert distance(torch.zeros(2), torch.ones(2)) == float("inf")
    assert distance([x, x], [x]) == float("inf")


def test_reshapes_agree_with_numpy() -> None:
    """Labels of a merged run are what numpy makes of the full label array; in the end all but one factor are tied."""
    flow = Flow(batch=1)
    labels = flow.classes.fresh(6).reshape(1, 6, 1)
    full = np.broadcast_to(labels, (2, 6, 4))
    merged = split_merge(flow, labels, (2, 6, 4), (2, 24))
    assert (np.broadcast_to(merged, (2, 24)) == full.reshape(2, 24)).all()
    split = split_merge(flow, labels, (2, 6, 4), (2, 2, 3, 4))
    assert split.shape == (1, 2, 3, 1)
    flow.settle()
    roots = flow.classes.roots(np.arange(1, 7))
    assert roots.tolist() == [1, 2, 3, 1, 2, 3]
    assert split_merge(flow, labels, (0, 6, 4), (0, 24)).any() is np.False_


def test_classes_keep_the_first_reason() -> None:
    classes = Classes()
    a, b, c = (int(v) for v in classes.fresh(3))
    classes.freeze(c, "late")
    classes.unite(b, c)
    assert classes.reason == {b: "late"}
    classes.freeze(a, "early")
    classes.unite(a, c)
    assert classes.reason == {a: "early"}
    classes.freeze(0, "nothing")
    assert 0 not in classes.reason
