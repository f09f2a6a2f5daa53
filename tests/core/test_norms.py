"""Norms over channels that leave: what they are taken over, in a replay, in a module and once it is smaller."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sprig.core.errors import InputError
from sprig.core.norms import OverKept, marked, over_kept
from sprig.core.plan import Plan
from sprig.core.reload import reshape
from sprig.core.replay import Replay, state_of
from sprig.core.surgery import mask, mask_, shrink, shrink_
from sprig.core.tracing import distance, trace
from sprig.core.trials import half_masks
from sprig.testing import toys
from sprig.testing.checks import check_surgery, output, random_plan
from sprig.testing.normed import NORMED

CUT = [n for n, toy in NORMED.items() if toy.prunable]


def made(name: str, seed: int = 0) -> tuple[Any, tuple[Any, ...]]:
    torch.manual_seed(seed)
    return NORMED[name].make().eval(), NORMED[name].example()


@pytest.mark.parametrize("name", NORMED)
def test_streams_behind_norms_are_found(name: str) -> None:
    toy, (net, example) = NORMED[name], made(name)
    graph = trace(net, example, norms="cut")
    assert tuple(g.name for g in graph.prunable) == toy.prunable
    reasons = [g.reason for g in graph.groups if g.reason]
    assert toy.says is None or any(toy.says in r for r in reasons), reasons


@pytest.mark.parametrize("name", CUT)
def test_the_contract_of_surgery_holds(name: str, seed: int) -> None:
    net, example = made(name, seed)
    checked = check_surgery(net, example, seed=seed, norms="cut")
    assert checked.alone == len(NORMED[name].prunable)
    assert checked.smallest_change > 1e-3


@pytest.mark.parametrize("name", ["residual", "attention", "layer_norm", "group_norm"])
def test_without_the_option_nothing_is_other(name: str) -> None:
    net, example = toys.make(name)
    graph = trace(net, example)
    assert graph.norms == ()
    assert graph.fingerprint == trace(net, example, norms="keep").fingerprint
    other = trace(net, example, norms="cut")
    assert (graph.fingerprint == other.fingerprint) == (not other.norms)
    with pytest.raises(InputError, match="norms='all'; known are keep, cut"):
        trace(net, example, norms="all")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["layer_norm", "rms_norm"])
def test_a_norm_over_what_is_kept(name: str) -> None:
    x = torch.randn(2, 3, 6, dtype=torch.float64, requires_grad=True)
    gain, keep = torch.rand(6).double(), torch.tensor([True, False, True, True, False, True])
    part = x.detach()[..., keep]
    if name == "layer_norm":
        bias = torch.rand(6).double()
        part = (part - part.mean(-1, keepdim=True)) / (
            part.var(-1, correction=0, keepdim=True) + 1e-3
        ).sqrt()
        wanted, more = part * gain[keep] + bias[keep], (bias, 1e-3)
    else:
        wanted, more = (
            part / (part.square().mean(-1, keepdim=True) + 1e-3).sqrt() * gain[keep],
            (1e-3,),
        )
    mark = gain.masked_fill(~keep, torch.nan)
    forms = [
        (getattr(F, name), more),
        (getattr(torch, name), more),
        (getattr(torch.ops.aten, name).default, more),
    ]
    for function, rest in forms:
        found = over_kept(name, function, x, [6], mark, *rest)
        assert torch.allclose(found[..., keep], wanted, atol=1e-12)
        assert not found[..., ~keep].any()
        whole = over_kept(name, function, x, [6], gain, *rest)
        assert torch.equal(whole, function(x, [6], gain, *rest))
    (slope,) = torch.autograd.grad(found.sum(), x)
    assert not slope[..., ~keep].any() and bool(slope[..., keep].any())
    named = over_kept(name, getattr(F, name), x, normalized_shape=[6], weight=mark, eps=1e-3)
    assert not named[..., ~keep].any()


@pytest.mark.parametrize("name", ["layered", "rooted", "stages", "encoder"])
def test_a_replay_with_marks_gives_what_the_masked_and_the_shrunk_module_give(name: str) -> None:
    net, example = made(name)
    net = net.double()
    example = tuple(x.double() if x.is_floating_point() else x for x in example)
    graph = trace(net, example, norms="cut")
    masks = half_masks(graph, [g.index for g in graph.prunable])
    wide = mask_(copy.deepcopy(net), masks, graph)
    replay = Replay(net, example)
    weights = {n: torch.nan_to_num(t) if n in {x.weight for x in graph.norms} else t
               for n, t in state_of(wide).items()}  # fmt: skip
    weights |= marked(weights, masks, graph)
    found = replay.finish(replay.start(example), weights)
    assert distance(found, output(wide, example, {})) < 1e-12
    assert distance(found, output(shrink_(wide, masks, graph), example, {})) < 1e-12
    dense = replay.finish(replay.start(example), state_of(net))
    assert distance(dense, found) > 1e-2


def test_marks_add_up() -> None:
    net, example = made("gated")
    graph = trace(net, example, norms="cut")
    first, second = (g.index for g in graph.prunable)
    masks = half_masks(graph, [first, second])
    weights = state_of(net)
    once = {**weights, **marked(weights, {first: masks[first]}, graph)}
    twice = {**once, **marked(once, {second: masks[second]}, graph)}
    both = {**weights, **marked(weights, masks, graph)}
    assert all(torch.equal(torch.isnan(twice[n]), torch.isnan(both[n])) for n in weights)
    assert {n for n in weights if torch.isnan(both[n]).any()} == {"norm.weight", "gate.weight"}
    assert marked(weights, {first: np.ones(8, dtype=bool)}, graph) == {}


def test_classes_and_numbers_come_back() -> None:
    net, example = made("stages")
    graph = trace(net, example, norms="cut")
    plan = random_plan(graph, [g.index for g in graph.prunable], np.random.default_rng(0))
    masked: Any = mask(net, plan, graph)
    assert isinstance(masked.norm, OverKept) and isinstance(masked.norm, nn.LayerNorm)
    assert type(masked.stem[1]).__name__ == "ImageNorm"
    assert bool(torch.isnan(masked.norm.weight).any())
    again: Any = mask(masked, plan, graph)  # masks of a masked network are the same masks
    assert type(again.norm).__mro__.count(OverKept) == 1
    small: Any = shrink(masked, plan, graph)
    assert type(small.norm) is nn.LayerNorm and type(small.stem[1]) is type(net.stem[1])
    assert small.norm.normalized_shape == (len(plan.keep["fewer.1"]),)
    assert all(bool(torch.isfinite(t).all()) for t in small.state_dict().values())
    assert not any(isinstance(m, OverKept) for m in [*net.modules(), *small.modules()])
    shapes = {n: tuple(t.shape) for n, t in state_of(small).items()}
    loaded: Any = reshape(net, shapes)
    loaded.load_state_dict(small.state_dict())
    assert loaded.norm.normalized_shape == small.norm.normalized_shape
    assert distance(output(loaded, example, {}), output(small, example, {})) == 0


def test_a_masked_network_trains_on_what_is_kept() -> None:
    net, example = made("layered")
    graph = trace(net, example, norms="cut")
    plan = Plan({"words": (0, 2, 5)}, {"words": 8}, graph.fingerprint)
    masked: Any = mask(net, plan, graph)
    step = torch.optim.AdamW(masked.parameters(), lr=0.1)
    masked(*example).square().sum().backward()
    step.step()
    gain = masked.norm.weight.detach()
    assert torch.isnan(gain).tolist() == [i not in (0, 2, 5) for i in range(8)]
    assert not torch.equal(gain[[0, 2, 5]], torch.ones(3))
    small = shrink(masked, plan, graph)
    assert bool(torch.isfinite(small(*example)).all())
