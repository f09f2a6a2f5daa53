"""Moments of one pass equal those computed directly from hooks and `unfold`."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sprig.core.collect import collect, consumer_rows, judges, live_rows, row_limit
from sprig.core.errors import InputError
from sprig.core.stats import Moments
from sprig.core.tracing import trace
from sprig.core.types import Consumer
from sprig.core.workbench import Workbench
from sprig.testing import toys


class Strided(nn.Module):
    """Strides, dilation, unequal padding, a depthwise layer in between, one convolution called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depth = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, groups=6)
        self.a = nn.Conv2d(6, 6, (3, 2), stride=(2, 1), padding=(2, 1), dilation=(2, 1))
        self.b, self.head = nn.Conv2d(6, 6, 1), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(torch.tanh(self.depth(self.stem(x)))))
        return self.head(F.relu(self.b(F.relu(self.b(x)))).mean((2, 3)))


def direct_rows(module: Any, x: Tensor) -> Tensor:
    """(rows, columns) by unfold; small and slow, and nothing of ours."""
    if isinstance(module, nn.Linear):
        return x.reshape(-1, x.shape[-1])
    if x.dim() == 3:  # one-dimensional
        x = x.unsqueeze(2)
        kernel, stride, dilation = (
            (1, v[0]) for v in (module.kernel_size, module.stride, module.dilation)
        )
        padding = (0, module.padding[0] if module.padding != "same" else module.kernel_size[0] // 2)
    else:
        kernel, stride, dilation = module.kernel_size, module.stride, module.dilation
        padding = module.padding
    columns = F.unfold(x, kernel, dilation=dilation, padding=padding, stride=stride)
    return columns.transpose(1, 2).reshape(-1, columns.shape[1])


def seen(net: nn.Module, data: Tensor) -> dict[str, list[Tensor]]:
    """Rows of every layer, call by call."""
    found: dict[str, list[Tensor]] = {}
    for name, module in net.named_modules():
        if (
            isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d)
            and getattr(module, "groups", 1) == 1
        ):
            key = f"{name}.weight"
            module.register_forward_hook(
                lambda m, i, o, key=key: found.setdefault(key, []).append(
                    direct_rows(m, i[0].detach())
                )
            )
    with torch.no_grad():
        net.eval()(data)
    return found


NETS = {"strided": (Strided, (13, 3, 9, 8))} | {
    n: (toys.TOYS[n].make, (13, *toys.TOYS[n].shape[1:]))
    for n in ("dense", "conv1d", "flatten", "channels_last", "squeeze_excite", "position")
}


@pytest.mark.parametrize("name", NETS)
def test_moments_equal_a_direct_computation(name: str) -> None:
    make, shape = NETS[name]
    net, data = make(), torch.randn(shape, generator=torch.Generator().manual_seed(2))
    graph = trace(net, (data[:3],))
    bench = Workbench(net.eval(), graph, [((data[:5],), {}, None), ((data[5:],), {}, None)])
    assert bench.samples == 13
    assert bench.chunks[-1].rows < len(bench.chunks[-1].args[0]), "the last chunk is filled up"
    found = collect(bench, graph.consumers)
    assert set(found) == {c.node for c in graph.consumers}
    expected = seen(net, data)
    calls: dict[str, int] = {}
    for c in graph.consumers:
        rows = expected[c.weight][calls.setdefault(c.weight, 0)].double()
        calls[c.weight] += 1
        a, b = found[c.node]
        both = a + b
        assert both.count == len(rows)
        assert c.positions * 13 == len(rows)
        assert torch.allclose(both.mean.double(), rows.mean(0), atol=1e-5)
        centred = rows - rows.mean(0)
        second = centred.T @ centred
        assert torch.allclose(both.second, second, atol=1e-4 * float(second.diagonal().max()))


def test_the_judge_sees_other_samples() -> None:
    net, (x,) = toys.make("mlp")
    data = torch.randn(32, *x.shape[1:], generator=torch.Generator().manual_seed(2))
    graph = trace(net, (x,))
    bench = Workbench(net.eval(), graph, [((data,), {}, None)])
    found = collect(bench, graph.consumers)
    parts = ([c for i, c in enumerate(bench.chunks) if judges(i) is side] for side in (False, True))
    for side, part in enumerate(parts):
        rows = seen(net, torch.cat([c.args[0][: c.rows] for c in part]))["2.weight"][0]
        own = Moments.from_rows(rows)
        moments = found[graph.consumers[0].node][side]
        assert moments.count == own.count > 0
        assert torch.allclose(moments.mean.double(), own.mean.double(), atol=1e-5)


def test_a_sample_of_rows_is_seeded_bounded_and_even() -> None:
    _, (x,) = toys.make("flatten")
    data = torch.randn(24, *x.shape[1:], generator=torch.Generator().manual_seed(2))
    first = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 3))
    graph = trace(first, (x,))

    def run() -> Moments:
        bench = Workbench(first.eval(), graph, [((data,), {}, None)])
        ((a, b),) = collect(bench, graph.consumers, per_column=1.0, least=100).values()
        return a + b

    one, two = run(), run()
    assert 100 <= one.count < 110
    assert torch.equal(one.second, two.second)
    (c,) = graph.consumers
    assert row_limit(c, 54, 24, 10.0, 100) == 540
    assert row_limit(c, 54, 24, 1.0, 100) == 100
    assert row_limit(c, 54, 1, 10.0, 100) == 36, "no more than there are"


def test_windows_multiply_the_batch() -> None:
    net, (x,) = toys.make("channels_last")
    bench = Workbench(net.eval(), trace(net, (x,)), [((x,), {}, None)])
    assert (
        live_rows(bench, torch.zeros(4 * bench.replay.batch, 16, 6), bench.replay.batch)
        == 4 * bench.replay.batch
    )
    assert live_rows(bench, torch.zeros(bench.replay.batch, 16, 6), 1) == 1


def test_only_the_rows_that_count() -> None:
    x = torch.arange(12.0).view(4, 3)
    axis: Any = None
    c = Consumer("n", 0, "linear", "w", None, axis, 1, 2, 1)
    found, where, of = consumer_rows(c, torch.zeros(2, 3), x, 2, 100, torch.Generator())
    assert torch.equal(found, x[:2])
    assert where.tolist() == [0, 1]
    assert of == 2


def test_a_sick_model_is_refused() -> None:
    net, (x,) = toys.make("mlp")
    graph = trace(net, (x,))
    with torch.no_grad():
        net[2].weight[1, 1] = float("nan")  # type: ignore[index,operator]
    with pytest.raises(InputError, match=r"1 NaN or infinite values in 2\.weight"):
        Workbench(net, graph, [((x,), {}, None)])
