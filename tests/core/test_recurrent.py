"""Recurrent layers, taken apart: the program computes what the module computes, whatever its settings."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sprig.core.capture import capture
from sprig.core.errors import TraceError
from sprig.core.reload import reshape
from sprig.core.replay import Replay
from sprig.core.surgery import shrink
from sprig.core.tracing import distance, trace
from sprig.testing import toys
from sprig.testing.checks import random_plan

SETTINGS: list[tuple[Any, dict[str, Any]]] = [
    (nn.LSTM, {}),
    (nn.LSTM, {"num_layers": 2, "bidirectional": True, "batch_first": True}),
    (nn.LSTM, {"proj_size": 2, "bias": False, "bidirectional": True}),
    (nn.GRU, {"num_layers": 3, "bias": False}),
    (nn.GRU, {"bidirectional": True, "batch_first": True}),
    (nn.RNN, {"nonlinearity": "relu", "num_layers": 2}),
]


class Given(nn.Module):
    """Starts from given states and gives all of its results."""

    def __init__(self, kind: Any, settings: dict[str, Any]) -> None:
        super().__init__()
        self.rnn = kind(3, 4, **settings)
        self.sizes = [settings.get("proj_size", 4), 4][: 2 if kind is nn.LSTM else 1]

    def forward(self, x: Tensor, start: Tensor) -> Any:
        states = [start[..., :n].contiguous() for n in self.sizes]
        y, ends = self.rnn(x, tuple(states) if len(states) == 2 else states[0])
        return y, ends


@pytest.mark.parametrize(("kind", "settings"), SETTINGS)
def test_parts_compute_what_the_module_computes(kind: Any, settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    net = Given(kind, settings).eval().double()
    turns = settings.get("num_layers", 1) * (2 if settings.get("bidirectional") else 1)
    x, start = torch.randn(4, 4, 3).double(), torch.randn(turns, 4, 4).double()
    program = capture(net, (x, start))
    names = [str(n.target) for n in program.graph.nodes]
    assert sum("linear" in n for n in names) == turns, "what is made of the inputs is a linear map"
    with torch.no_grad():
        expected = net(x, start)
        found = program.graph_module(*_tensors(net, program), x, start)
    assert distance(list(found), torch.utils._pytree.tree_leaves(expected)) < 1e-12


def _tensors(net: nn.Module, program: torch.export.ExportedProgram) -> list[Tensor]:
    named = dict(net.named_parameters())
    return [named[n] for n in program.graph_signature.parameters]


@pytest.mark.parametrize("name", ["cells", "lstm_deep", "translator"])
def test_programs_of_toys_are_checked_against_the_module(name: str) -> None:
    net, example = toys.make(name)
    Replay(net.eval(), example)  # compares, and refuses what differs


def test_dropout_between_layers_is_kept_for_training() -> None:
    net = nn.Sequential(nn.LSTM(3, 4, num_layers=3, dropout=0.2))
    names = [str(n.target) for n in capture(net, (torch.randn(5, 2, 3),), train=True).graph.nodes]
    assert sum("dropout" in n for n in names) == 2


@pytest.mark.parametrize("name", ["lstm_deep", "cells", "segmenter"])
def test_fresh_models_take_the_shapes_of_cut_ones(name: str) -> None:
    net, example = toys.make(name)
    graph = trace(net.eval(), example)
    plan = random_plan(graph, [g.index for g in graph.prunable], _draw())
    small = shrink(net, plan, graph)
    shapes = {n: tuple(t.shape) for n, t in small.state_dict().items()}
    again = reshape(toys.make(name, seed=5)[0].eval(), shapes)
    again.load_state_dict(small.state_dict())
    with torch.no_grad():
        assert distance(again(*example), small(*example)) == 0
    assert repr(again) == repr(small)


def _draw() -> Any:
    import numpy as np

    return np.random.default_rng(0)


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.rnn, self.head = nn.Linear(3, 6), nn.GRU(6, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        x = nn.utils.rnn.pack_padded_sequence(torch.relu(self.enter(x)), lengths)
        return self.head(self.rnn(x)[1][0])


def test_packed_sequences_cannot_be_exported_and_the_line_is_named() -> None:
    with pytest.raises(TraceError, match=r"test_recurrent\.py.*\(forward\)"):
        trace(Packed().eval(), (torch.randn(4, 2, 3), torch.tensor([4, 2])))


class Odd(nn.Module):
    """Weights that are no parameters, given to the operation itself."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.rnn, self.head = nn.Linear(3, 6), nn.GRUCell(6, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        own, start = self.rnn, torch.zeros(x.shape[0], 5)
        x = torch.gru_cell(torch.relu(self.enter(x)), start, own.weight_ih, own.weight_hh * 2)
        return self.head(x)


def test_computed_weights_keep_the_features() -> None:
    graph = trace(Odd().eval(), (torch.randn(4, 3),))
    assert graph.group("enter").prunable
    assert "the weight is computed, not a parameter (gru_cell; " in str(graph.group("rnn").reason)
