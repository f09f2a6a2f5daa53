"""Widths of layers that are stored or run in ways of their own: transposed convolutions, recurrent layers."""

import torch

from sprig.core.opbench import Bench, Blank, Op, contraction
from sprig.core.timelayers import Layer, layers
from sprig.core.timing import Timing
from sprig.core.tracing import trace
from sprig.testing import toys


def of(name: str) -> dict[str, Layer]:
    """The layers of a toy that multiply, by module; others by what they are."""
    net, example = toys.make(name)
    graph = trace(net.eval(), example)
    return {v.where if v.contracts else v.kind: v for v in layers(graph, graph.program)}


def test_weights_stored_by_inputs_at_other_widths() -> None:
    f = "float32"
    x, b = Blank((2, 64, 8, 8), f), Blank((32,), f)
    up = "aten.conv_transpose2d.input"
    op = contraction(Op(up, (x, Blank((64, 32, 2, 2), f), b), {}), 16, 8)
    assert [a.shape for a in op.args[:3]] == [(2, 16, 8, 8), (16, 8, 2, 2), (8,)]
    deep = Op(up, (x, Blank((64, 3, 2, 2), f), None, 2, 0, 0, 16), {})
    op = contraction(deep, 0, 30)
    assert [a.shape for a in op.args[:2]] == [(2, 40, 8, 8), (40, 3, 2, 2)] and op.args[6] == 10


def test_transposed_convolutions_run_at_other_widths() -> None:
    found = of("segmenter")
    ups = {n: v for n, v in found.items() if "transposed" in v.family}
    assert {n: (v.kind, v.inside.full, v.outside.full) for n, v in ups.items()} == {
        "grouped": ("depthwise", 8, 8),
        "wide": ("conv", 8, 6),
        "alone": ("depthwise", 6, 6),
    }
    bench = Bench(Timing(), torch.device("cpu"))
    for name, inside, outside in (("wide", 4, 3), ("grouped", 0, 4), ("alone", 0, 5)):
        op = ups[name].at(inside, outside)
        assert op is not None
        assert bench.callable(op)().shape[1] == outside
    assert found["classes"].family == "conv[1, 1]", "measured apart from those that are transposed"


def test_recurrences_are_a_share_of_their_dense_time() -> None:
    found = of("lstm")
    kept = found["lstm"]
    assert kept.outside.full == 5 and kept.outside.free
    assert kept.at(0, 5) is not None
    assert kept.at(0, 3) is None, "it is not run alone at another width"
    gates = found["rnn"]
    assert (gates.kind, gates.inside.full, gates.outside.full) == ("linear", 6, 20)
