"""Replay: node by node gives what the module gives, from any cut, for any number of forks."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sprig.core.chunks import chunks
from sprig.core.errors import InputError, TraceError
from sprig.core.replay import Replay, state_of
from sprig.core.tracing import tensors_of
from sprig.testing import toys
from sprig.testing.checks import output


def bits(a: Any, b: Any) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("checked", [False, True])
@pytest.mark.parametrize("name", toys.names(error=False))
def test_replay_is_the_module_from_every_cut(name: str, checked: bool) -> None:
    net, example = toys.make(name)
    before = copy.deepcopy(state_of(net))
    given = [x.clone() for x in example]
    expected = tensors_of(output(net, example, {}))
    replay, weights = Replay(net, example, check=checked), state_of(net)
    whole = replay.finish(replay.start(example), weights)
    # the program may lay a product out otherwise, which some processors add up in another order
    torch.testing.assert_close(whole, expected, rtol=1e-5, atol=1e-6)
    expected = whole  # from any cut, the same bits
    live = replay.start(example)
    for stop in range(0, len(replay.nodes), max(1, len(replay.nodes) // 7)):
        live = replay.advance(live, weights, stop)
        assert bits(replay.finish(live.fork(), weights), expected), (
            f"cut before {replay.nodes[stop].name}"
        )
    assert bits(list(weights.values()), list(before.values())), "the weights were written to"
    assert bits(example, given), "the inputs were written to"


def test_images_are_replayed_with_their_channels_last() -> None:
    """Unless the program needs the order that it was exported with; a view may become a copy, but not be written to."""

    class Net(nn.Module):
        def __init__(self, kind: str) -> None:
            super().__init__()
            self.stem, self.kind = nn.Conv2d(3, 8, 3, padding=1), kind
            self.head = nn.Linear(8 * 36, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            if self.kind == "written":
                flat = x.view(len(x), -1)
                flat.mul_(2.0)
                return self.head(x.flatten(1))
            if self.kind == "strides":  # reads the memory as it stands
                return self.head(x.as_strided((len(x), 8 * 36), (8 * 36, 1)))
            return self.head(x.view(len(x), -1))

    x = torch.randn(4, 3, 6, 6)
    for kind, last in {"plain": True, "written": False, "strides": False}.items():
        net = Net(kind).eval()
        replay = Replay(net, (x,))
        assert replay.channels_last is last, kind
        (found,) = replay.finish(replay.start((x,)), state_of(net))
        torch.testing.assert_close(found, net(x))


def test_other_weights_from_a_cut_leave_the_prefix_alone() -> None:
    net, example = toys.make("residual")
    replay, weights = Replay(net, example, check=False), state_of(net)
    changed: Any = copy.deepcopy(net)
    with torch.no_grad():
        changed.third.weight.mul_(-2)
    node = next(
        n
        for n in replay.nodes
        if any(replay.tensor_of.get(a) == "third.weight" for a in n.all_input_nodes)
    )
    live = replay.advance(replay.start(example), weights, replay.index[node.name])
    other = replay.finish(live.fork(), {**weights, "third.weight": changed.third.weight.detach()})
    assert bits(other, tensors_of(output(changed, example, {})))
    assert bits(replay.finish(live, weights), tensors_of(output(net, example, {})))


def test_watching_sees_inputs_and_outputs_and_work_is_counted() -> None:
    net, example = toys.make("chain")
    replay, weights = Replay(net, example, check=False), state_of(net)
    seen: dict[str, Any] = {}
    layers: Any = net
    layers[9].register_forward_hook(lambda m, i, o: seen.update(x=i[0].detach(), y=o.detach()))
    output_of = layers.eval()(*example)
    found: dict[str, Any] = {}
    node = next(i for i, n in enumerate(replay.nodes) if "linear" in str(n.target))
    replay.count.layers = 0
    watch = {node: lambda inputs, y: found.update(x=inputs[0], y=y)}
    live = replay.advance(replay.start(example), weights, node + 1, watch)
    assert torch.equal(found["x"], seen["x"])
    assert torch.equal(found["y"], seen["y"])
    assert replay.count.layers == 3
    assert live.at == node + 1
    assert torch.equal(replay.finish(live, weights)[0], output_of)
    assert replay.count.layers == 3, "nothing is run twice"


def test_gradients_reach_the_weights_that_ask() -> None:
    net, example = toys.make("in_place")
    net.eval()
    loss = net(*example).square().sum()
    expected = torch.autograd.grad(loss, list(net.parameters()))
    replay = Replay(net, example)
    weights = {n: w.clone().requires_grad_() for n, w in state_of(net).items()}
    (y,) = replay.finish(replay.start(example), weights, grad=True)
    found = torch.autograd.grad(y.square().sum(), list(weights.values()))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(expected, found, strict=True))


class Written(nn.Module):
    """Writes through overlapping views, without a plain twin for one of the writes, and into its input."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        x[:, 0] = 3.0
        y = self.a(x)
        left, right = y[:, :4], y[:, 2:]
        left.clamp_(min=0.0)
        right[:, 1:].copy_(x[:, :3])
        z = y.t()
        z[1].zero_()
        return left.sum(1) + right.prod(1) + z.sum(0) + y[:, 0] + x.sum(1)


def test_writes_through_views_are_seen_and_stay_inside() -> None:
    net, x = Written(), torch.randn(3, 6)
    given = x.clone()
    replay, weights = Replay(net, (x,)), state_of(net)
    assert torch.equal(x, given)
    expected = net(x.clone()).detach()
    for stop in range(len(replay.nodes)):
        live = replay.advance(replay.start((x,)), weights, stop)
        twin = live.fork()
        for one in (live, twin):
            assert torch.equal(replay.finish(one, weights)[0], expected), stop
    assert torch.equal(x, given)


def test_keyword_arguments_in_any_order_numbers_and_none() -> None:
    net, (image,) = toys.make("dictionary")
    kwargs = {"flip": True, "scale": torch.tensor([2.0, 1.0, 0.5]).view(3, 1, 1, 1), "image": image}
    replay, weights = Replay(net, (), kwargs, check=False), state_of(net)
    backwards = dict(reversed(kwargs.items()))
    expected = net.eval()(**kwargs)["scores"].detach()
    found = replay.finish(replay.start((), backwards), weights)
    assert len(found) == 2, "one tensor given back twice is two outputs"
    assert torch.equal(found[0], expected)
    assert torch.equal(found[1], expected)
    with pytest.raises(InputError, match="names the inputs"):
        replay.start((), {"image": image})
    plain = Replay(net, (image, None), check=False)
    assert torch.equal(plain.finish(plain.start((image, None)), weights)[0], net(image)["scores"])


class Constant(nn.Module):
    """A tensor that is neither parameter nor buffer, and a buffer outside the state dict."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.plain = nn.Linear(4, 3), torch.tensor([1.0, 2.0, 3.0])
        self.register_buffer("hidden", torch.tensor([0.5, 0.0, -1.0]), persistent=False)
        self.hidden: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) * self.plain + self.hidden + torch.tensor(0.25)


def test_constants_and_hidden_buffers() -> None:
    net, x = Constant(), torch.randn(2, 4)
    replay = Replay(net, (x,))
    expected = net(x).detach()
    assert torch.equal(replay.finish(replay.start((x,)), state_of(net))[0], expected)
    only = {n: p.detach() for n, p in net.named_parameters()}
    assert torch.equal(replay.finish(replay.start((x,)), only)[0], expected), (
        "buffers come from the program"
    )


class Counts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.calls = nn.Linear(4, 3), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return F.relu(self.a(x)) * self.calls


def test_a_module_that_remembers_is_refused() -> None:
    net = Counts()
    net(torch.randn(2, 4))
    with pytest.raises(TraceError, match="something beside its inputs"):
        Replay(Twice(net), (torch.randn(2, 4),))


class Twice(nn.Module):
    """Other numbers in every run."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + torch.rand(3)


# ---- chunks ---------------------------------------------------------------------------------------
def test_chunks_fill_the_last_one_and_count_each_sample_once() -> None:
    x, y = torch.arange(10.0).view(10, 1), torch.arange(10)
    found = chunks([((x[:6],), {}, y[:6]), ((x[6:],), {}, y[6:])], 4)
    assert [c.rows for c in found] == [4, 4, 2]
    assert all(c.args[0].shape == (4, 1) for c in found)
    assert torch.equal(torch.cat([c.args[0][: c.rows] for c in found]), x)
    assert torch.equal(torch.cat([c.target for c in found if c.target is not None]), y)
    assert found[2].args[0].flatten().tolist() == [8, 9, 0, 1], "filled up from the start"
    (all_at_once,) = chunks([((x,), {}, None)], 64)
    assert all_at_once.args[0].shape == (10, 1)
    assert all_at_once.target is None


def test_filled_rows_do_not_show() -> None:
    net, _ = toys.make("chain")
    x = torch.randn(5, 3, 8, 8)
    found = chunks([((x,), {}, None)], 3)
    replay, weights = Replay(net, found[0].args), state_of(net)
    got = [replay.finish(replay.start(c.args, c.kwargs, c.rows), weights)[0] for c in found]
    assert [len(g) for g in got] == [3, 2]
    assert torch.allclose(torch.cat(got), output(net, (x,), {}), atol=1e-6)


def test_chunks_match_keyword_arguments_by_name() -> None:
    a, b = torch.zeros(2, 3), torch.ones(2, 3)
    scale = torch.tensor(2.0)
    batches: Any = [
        ((), {"a": a, "b": b, "s": scale}, None),
        ((), {"s": scale, "b": b, "a": a}, None),
    ]
    (chunk,) = chunks(batches, 8)
    assert not chunk.kwargs["a"].any()
    assert bool(chunk.kwargs["b"].all())
    assert chunk.kwargs["a"].shape == (4, 3)
    assert chunk.kwargs["s"] is scale, "what has no row per sample is handed on"
    with pytest.raises(InputError, match="names the inputs"):
        chunks([((), {"a": a}, None), ((), {"b": b}, None)], 8)
