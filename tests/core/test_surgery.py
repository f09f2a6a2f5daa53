"""Surgery: the contract on every topology, the numbers that modules keep, and what is refused."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sprig.core.errors import PlanError, SurgeryError
from sprig.core.plan import Plan
from sprig.core.surgery import apply, mask, put, shrink, state
from sprig.core.tracing import distance, trace
from sprig.core.types import Graph, Outcome
from sprig.testing import checks, toys
from sprig.testing.checks import check_surgery, output, random_plan

CUT = [n for n in toys.names(prunable=True) if toys.TOYS[n].error is None]


@pytest.mark.parametrize("name", CUT)
def test_the_contract_holds(name: str, seed: int) -> None:
    net, example = toys.make(name, seed=seed)
    checked = check_surgery(net, example, seed=seed)
    assert checked.alone == len(toys.TOYS[name].prunable)
    assert checked.smallest_change > 1e-3


def plan_for(graph: Graph, **keep: tuple[int, ...]) -> Plan:
    return Plan(keep=keep, sizes={n: graph.group(n).size for n in keep}, graph=graph.fingerprint)


def cut(name: str, **keep: tuple[int, ...]) -> Any:
    net, example = toys.make(name)
    graph = trace(net, example)
    names = {
        g.name: k
        for g in graph.prunable
        for key, k in keep.items()
        if key.removeprefix("_") == g.name.replace(".", "_")
    }
    return shrink(net, plan_for(graph, **names), graph)


def test_numbers_beside_the_tensors() -> None:
    small = cut("chain", _0=(1, 5, 6), _3=(0, 2))
    assert (small[0].out_channels, small[1].num_features, small[3].in_channels) == (3, 3, 3)
    assert (small[3].out_channels, small[9].in_features, small[9].out_features) == (2, 2, 5)
    small = cut("resnext", down=(0, 3))
    assert (small.middle.groups, small.middle.in_channels, small.middle.out_channels) == (2, 6, 6)
    small = cut("squeeze_excite", widen=(2, 3, 4, 5, 11))
    assert (small.depth.groups, small.depth.in_channels, small.depth.out_channels) == (5, 5, 5)
    assert (small.squeeze.in_channels, small.excite.out_channels) == (5, 5)
    small = cut("group_norm", _0=(1, 2, 3))
    assert (small[1].num_groups, small[1].num_channels) == (3, 9)
    assert cut("prelu", _0=(0, 1))[1].num_parameters == 2
    small = cut("unet", bottom_0=(1, 2, 3), up_second=(0, 6))
    assert (small.up_second.in_channels, small.up_second.out_channels) == (3, 2)
    small = cut("segmenter", deep=(0, 3), wide=(1, 2, 5))
    up = small.grouped
    assert (up.groups, up.in_channels, up.out_channels) == (2, 6, 4)
    assert (small.alone.groups, small.alone.in_channels, small.alone.out_channels) == (3, 3, 3)
    small = cut("lstm", conv=(0, 1, 5), rnn=(2, 4))
    assert (small.rnn.input_size, small.rnn.hidden_size, small.up.in_features) == (3, 2, 2)
    small = cut("cells", enter=(0, 1, 5), first=(2, 4), second=(0, 1, 3))
    assert (small.first.input_size, small.first.hidden_size) == (3, 2)
    assert (small.second.input_size, small.second.hidden_size) == (2, 3)
    small = cut("words", words=(0, 1, 7))
    assert (small.words.embedding_dim, small.words.num_embeddings) == (3, 11)
    assert "3" in repr(small.words)


def test_the_right_channels_stay() -> None:
    net, example = toys.make("flatten")
    graph = trace(net, example)
    small: Any = shrink(net, plan_for(graph, **{"0": (1, 4)}), graph)
    full: Any = net
    assert torch.equal(small[0].weight, full[0].weight[[1, 4]])
    assert torch.equal(small[0].bias, full[0].bias[[1, 4]])
    columns = [*range(16, 32), *range(64, 80)]
    assert torch.equal(small[4].weight, full[4].weight[:, columns])


def test_tied_tensors_stay_tied_and_flags_stay() -> None:
    small = cut("tied", first=(0, 3))
    assert small.first.weight is small.second.weight
    assert small.second.out_features == 2
    net, example = toys.make("inception")
    graph = trace(net, example)
    net.train()
    small = shrink(net, plan_for(graph, one=(0, 2)), graph)
    assert small.training
    assert not small.last.weight.requires_grad
    assert small.one.weight.requires_grad


@pytest.mark.parametrize("name", CUT[:12])
def test_no_tensor_of_the_smaller_network_is_the_models_own(name: str) -> None:
    """What is cut is made anew, not copied whole first; nothing that is written to the one shows in the other."""
    net, example = toys.make(name)
    graph = trace(net, example)
    before = {n: t.clone() for n, t in state(net).items()}
    cut_groups = [g.index for g in graph.prunable]
    small = shrink(net, random_plan(graph, cut_groups, np.random.default_rng(0)), graph)
    places = {t.untyped_storage().data_ptr() for t in state(net).values()}
    assert not places & {t.untyped_storage().data_ptr() for t in state(small).values()}
    with torch.no_grad():
        for tensor in state(small).values():
            tensor.zero_()
    assert all(torch.equal(before[n], t) for n, t in state(net).items())


def test_masks_are_zeros_in_the_old_shape() -> None:
    net, example = toys.make("chain")
    graph = trace(net, example)
    masked: Any = mask(net, plan_for(graph, **{"3": (0, 5)}), graph)
    assert masked[3].weight.shape == (12, 8, 3, 3)
    gone = [i for i in range(12) if i not in (0, 5)]
    assert not masked[3].weight[gone].any()
    assert not masked[9].weight[:, gone].any()
    assert bool(masked[3].weight[[0, 5]].all())


def test_an_outcome_brings_its_weights() -> None:
    net, example = toys.make("mlp")
    graph = trace(net, example)
    before = copy.deepcopy(net.state_dict())
    weights = {"2.weight": torch.randn(9, 16), "0.bias": torch.randn(16)}
    outcome = Outcome(plan_for(graph, **{"0": (0, 7, 9)}), weights)
    small, masked = shrink(net, outcome, graph), mask(net, outcome, graph)
    assert distance(output(masked, example, {}), output(small, example, {})) < 1e-6
    whole: Any = apply(net, outcome)
    assert torch.equal(whole[2].weight, weights["2.weight"])
    assert torch.equal(small[2].weight, weights["2.weight"][:, [0, 7, 9]])  # type: ignore[index]
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in before.items())


def test_what_does_not_fit_is_refused() -> None:
    net, example = toys.make("mlp")
    graph = trace(net, example)
    plan = plan_for(graph, **{"0": (0, 7)})
    small = shrink(net, plan, graph)
    with pytest.raises(
        PlanError,
        match=r"0\.weight: the graph was traced on shape \(16, 6\), the model has \(2, 6\)",
    ):
        shrink(small, plan, graph)
    with pytest.raises(PlanError, match="no such tensor"):
        mask(nn.Linear(1, 1), plan, graph)
    with pytest.raises(PlanError, match="expected a Plan or an Outcome, found a dict"):
        shrink(net, {"0": (0,)}, graph)  # type: ignore[arg-type]
    with pytest.raises(
        SurgeryError, match=r"2\.weight: the model has \(9, 16\), the weights have \(1,\)"
    ):
        put(copy.deepcopy(net), {"2.weight": torch.zeros(1)})
    with pytest.raises(SurgeryError, match="no such tensor"):
        put(copy.deepcopy(net), {"7.weight": torch.zeros(1)})


# ---- the contract can fail ------------------------------------------------------------------------
def broken_shrink(model: nn.Module, plan: Plan, graph: Graph) -> nn.Module:
    """Keeps other channels than the plan says."""
    other = {n: tuple((i + 1) % plan.sizes[n] for i in k) for n, k in plan.keep.items()}
    keep = {n: tuple(sorted(k)) for n, k in other.items()}
    return shrink(model, Plan(keep=keep, sizes=plan.sizes, graph=plan.graph), graph)


def meddling_mask(model: nn.Module, plan: Plan, graph: Graph) -> nn.Module:
    out = mask(model, plan, graph)
    with torch.no_grad():
        next(model.parameters()).add_(1e-12)
    return out


@pytest.mark.parametrize(
    ("part", "instead", "complaint"),
    [
        ("shrink", broken_shrink, "masked and shrunk differ"),
        ("mask", meddling_mask, "surgery changed the model"),
        ("cost", lambda graph, masks: {"macs": 1, "params": 1, "bytes": 1}, "recounted"),
        ("parameters", lambda model: 0, "recounted"),
        (
            "shrink",
            lambda model, plan, graph: nn.Sequential(shrink(model, plan, graph)),
            "the class became",
        ),
        (
            "random_plan",
            lambda graph, cut, draw: plan_for(graph),
            "does not depend on what was cut",
        ),
    ],
)
def test_the_contract_sees_what_is_broken(
    part: str, instead: Any, complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, example = toys.make("residual")
    monkeypatch.setattr(checks, part, instead)
    with pytest.raises(AssertionError, match=complaint):
        check_surgery(net, example)


def test_the_contract_refuses_to_check_nothing() -> None:
    with pytest.raises(AssertionError, match="nothing can be pruned"):
        check_surgery(nn.Sequential(nn.Linear(3, 2)), (torch.randn(2, 3),))
    deaf = nn.Sequential(
        nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2), nn.Softmax(0), nn.Threshold(2.0, 0.5)
    )
    with pytest.raises(AssertionError, match="do not vary"):
        check_surgery(deaf, (torch.randn(2, 3),))


def test_random_plans_are_of_every_size_and_seeded() -> None:
    net, example = toys.make("chain")
    graph = trace(net, example)
    plans = [random_plan(graph, [0, 1], np.random.default_rng(s)) for s in range(60)]
    assert {len(p.keep["0"]) for p in plans} == set(range(1, 8))
    assert random_plan(graph, [0], np.random.default_rng(3)) == random_plan(
        graph, [0], np.random.default_rng(3)
    )
