"""Metrics of a consumer's outputs: the batch norm's, none, and the Fisher information against closed forms."""

import pytest
import torch
from torch import Tensor, nn

import sprig
from sprig.core.batches import as_batches
from sprig.core.errors import InputError
from sprig.core.stats import Moments
from sprig.core.tracing import trace
from sprig.core.workbench import Workbench
from sprig.methods.greedy.metric import DAMPING, LEAST, fisher, metric_of
from sprig.methods.greedy.problem import ConsumerProblem, columns_of
from sprig.methods.greedy.pursuit import power_of, value
from sprig.methods.greedy.refit import RefitConfig, realise, search


def bench(net: nn.Module, x: Tensor, *, inner: bool = False) -> Workbench:
    return Workbench(net.eval(), trace(net, (x[:2],)), list(as_batches([x])), inner=inner)


def softmax_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))


def test_of_scores_it_is_the_spread_of_the_labels() -> None:
    """In the logits, E[g g^T] = diag(p) - p p^T, whatever the weights."""
    net, x = softmax_net(), torch.randn(256, 5)
    found = fisher(bench(net, x))
    with torch.no_grad():
        p = net(x).double().softmax(-1)
    expected = (p * (1 - p)).mean(0)
    drawn = found["linear_2"]
    assert torch.allclose(drawn, expected / expected.mean(), atol=0.15)
    assert float(drawn.mean()) == pytest.approx(1.0)


def test_it_follows_what_an_output_does_to_the_scores() -> None:
    """An output of the hidden layer that nothing reads counts least; one that is read strongly counts most."""
    net, x = softmax_net(), torch.randn(256, 5)
    with torch.no_grad():
        net[4].weight[:, 0] = 0.0  # type: ignore[index,operator,union-attr]
        net[4].weight[:, 1] *= 20.0  # type: ignore[index,operator,union-attr]
    hidden = fisher(bench(net, x))["linear_1"]
    assert float(hidden[0]) == pytest.approx(LEAST)
    assert int(hidden.argmax()) == 1


def test_of_other_outputs_it_is_the_squared_weight_behind() -> None:
    net, x = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3), nn.Linear(3, 5)), torch.randn(256, 4)
    found = fisher(bench(net, x, inner=True))["linear_1"]
    with torch.no_grad():
        expected = (net[2].weight / net(x).std()).square().sum(0)  # type: ignore[arg-type,operator,union-attr]
    assert torch.allclose(found, (expected / expected.mean()).double(), atol=0.25)


def test_the_same_seed_gives_the_same_bits_and_leaves_the_weights_alone() -> None:
    net, x = softmax_net(), torch.randn(64, 5)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    one, two = fisher(bench(net, x)), fisher(bench(net, x))
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


def test_an_unknown_metric_is_refused() -> None:
    made = bench(softmax_net(), torch.randn(8, 5))
    with pytest.raises(InputError, match="known are norm, identity, fisher, kfac"):
        metric_of(made, made.graph.consumers[0], "trace")
    assert metric_of(made, made.graph.consumers[0], "identity") is None


def test_of_two_scores_it_is_their_covariance() -> None:
    """In the logits, E[g g^T] = diag(p) - p p^T: a shift of all logits alike counts nothing but the damping."""
    net, x = softmax_net(), torch.randn(256, 5)
    found = fisher(bench(net, x), full=True)["linear_2"]
    with torch.no_grad():
        p = net(x).double().softmax(-1)
    expected = (torch.diag_embed(p) - p[:, :, None] * p[:, None]).mean(0)
    expected = expected / expected.diagonal().mean()
    assert torch.allclose(found - DAMPING * torch.eye(4), expected, atol=0.15)
    assert float(found.sum()) == pytest.approx(4 * DAMPING, abs=1e-6)
    diagonal = fisher(bench(net, x))["linear_2"]
    assert torch.allclose(found.diagonal() - DAMPING, diagonal)


def layer(own: bool, centred: bool) -> tuple[ConsumerProblem, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(3)
    x = torch.randn(200, 8, generator=g, dtype=torch.float64) + 0.5
    x[:, 1] += x[:, 0]
    w = torch.randn(3, 8, generator=g, dtype=torch.float64)
    y = x @ w.mT if own else (x @ w.mT).tanh() + torch.randn(200, 3, generator=g)
    moments = Moments.from_rows(x, None if own else y)
    columns = columns_of([[0, 1], [2, 3], [4, 5], [6, 7]], 8)
    problem = ConsumerProblem(moments, columns, own=w if own else None, centred=centred)
    return problem, x, y, torch.tensor([[4.0, 1, 0], [1, 2, -1], [0, -1, 3]], dtype=torch.float64)


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("centred", [True, False])
def test_errors_under_a_full_metric_are_those_of_the_definition(own: bool, centred: bool) -> None:
    """sum over rows of e^T G e, e what least squares leaves: up to a part that no choice changes, and that none has
    where the target is the layer's own output."""
    problem, x, y, g = layer(own, centred)
    under = problem.weighed(g)
    total = power_of(under)

    def direct(kept: list[int]) -> float:
        columns = [c for u in kept for c in (2 * u, 2 * u + 1)]
        if not columns:
            e = y - y.mean(0) * centred
        else:
            a = x[:, columns]
            a = torch.cat([a, torch.ones(200, 1)], 1) if centred else a
            e = y - a @ torch.linalg.lstsq(a, y).solution
        return float((e @ g * e).sum(1).mean())

    sets = [[], [0], [1], [2], [3], [0, 2], [1, 3], [2, 3], [0, 1, 2], [0, 1, 2, 3]]
    seen = [total * value([under], kept, size=4, ridge=0.0) for kept in sets]
    wanted = [direct(kept) for kept in sets]
    rest = wanted[0] - seen[0]
    assert [s + rest for s in seen] == pytest.approx(wanted, rel=1e-7, abs=1e-8)
    if own:
        assert rest == pytest.approx(0.0, abs=1e-8)
        assert seen[-1] == pytest.approx(0.0, abs=1e-8)
    else:
        assert seen[-1] > 0


@pytest.mark.parametrize("own", [True, False])
def test_a_full_metric_with_nothing_beside_the_diagonal_is_the_diagonal_one(own: bool) -> None:
    problem, _, _, g = layer(own, True)
    full, plain = problem.weighed(g.diagonal().diag()), problem.weighed(g.diagonal())
    assert power_of(full) == pytest.approx(power_of(plain))
    for kept in ([0], [1, 2], [0, 2, 3]):
        one = value([full], kept, size=4, ridge=1e-3)
        assert one == pytest.approx(value([plain], kept, size=4, ridge=1e-3))


@pytest.mark.parametrize("metric", ["identity", "fisher", "kfac"])
def test_a_metric_changes_what_stays_and_nothing_else_is_needed(metric: str) -> None:
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.BatchNorm2d(6), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4),
    )  # fmt: skip
    with torch.no_grad():
        for norm in (net[1], net[4]):
            norm.weight.uniform_(0.05, 3.0)  # type: ignore[operator,union-attr]
    x = torch.randn(64, 3, 10, 10)
    made = bench(net, x)
    config = RefitConfig(metric=metric, ratio_pairs=0)
    path, plain = search(made, config), search(made, RefitConfig(ratio_pairs=0))
    name = made.graph.prunable[0].name
    assert path.groups[name].errors != plain.groups[name].errors
    plan = path.at(sprig.Budget(macs=0.6))
    small = sprig.shrink(net, realise(made, plan, config), made.graph)
    assert small(x).isfinite().all()
