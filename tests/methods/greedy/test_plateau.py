"""Refit up to what an activation hides: the projection, the rounds against a general minimiser, where it applies."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

import sprig
from sprig.core.batches import as_batches
from sprig.core.plan import Plan
from sprig.core.replay import Replay
from sprig.core.stats import Moments
from sprig.core.tracing import trace
from sprig.core.workbench import Workbench
from sprig.methods.greedy.evidence import anchored
from sprig.methods.greedy.plateau import (
    Plateau,
    Sample,
    find_plateau,
    relaxed,
    wanted_rows,
)
from sprig.methods.greedy.problem import ConsumerProblem, Solution, solve
from sprig.methods.greedy.refit import RefitConfig, realise, search
from sprig.methods.greedy.seam import Scale, find_seam

FREE = float("inf")


def lost(plateau: Plateau, found: Tensor, original: Tensor) -> float:
    return float((plateau.projected(found, original) - found).square().sum())


def problem(rows: int = 400, *, ridge: float = 1e-3) -> tuple[ConsumerProblem, Sample, Tensor]:
    """Three outputs of eight inputs that share directions; half of the inputs are to go."""
    draw = torch.Generator().manual_seed(3)
    mixed = torch.randn(5, 8, generator=draw)
    x = torch.randn(rows, 5, generator=draw) @ mixed + 0.5 * torch.randn(rows, 8, generator=draw)
    weight = torch.randn(3, 8, generator=draw)
    y = x @ weight.T + torch.tensor([0.5, -2.0, 0.0])
    moments = anchored(Moments.from_rows(x, y), ridge, weight)
    return ConsumerProblem(moments, torch.full((8,), -1)), Sample(x, y), weight


KEEP = torch.tensor([True] * 4 + [False] * 4)


def outputs(solution: Solution, sample: Sample) -> Tensor:
    return sample.x @ solution.weight.float().T + solution.bias.float()


@pytest.mark.parametrize("ends", [(0.0, FREE), (-1.0, 1.0)])
def test_rounds_reach_what_a_general_minimiser_reaches(ends: tuple[float, float]) -> None:
    made, sample, start = problem()
    plateau = Plateau(*ends)
    found = relaxed(made, KEEP, sample, plateau, None, ridge=1e-3, start=start, rounds=3000)
    x, y = sample.x.double(), sample.y.double()
    scale = 1e-3 * float(Moments.from_rows(x).second.diagonal().mean())

    def value(weight: Tensor, bias: Tensor) -> Tensor:
        z = x[:, KEEP] @ weight.T + bias
        gap = (plateau.projected(z.detach(), y) - z).square().sum()  # the projection is the nearest
        pull = (weight - start[:, KEEP].double()).square().sum()
        return gap + scale * pull

    weight = found.weight[:, KEEP].clone().requires_grad_(True)
    bias = found.bias.clone().requires_grad_(True)
    here = float(value(weight, bias).detach())
    search = torch.optim.LBFGS([weight, bias], max_iter=500, tolerance_grad=1e-10)

    def closure() -> Tensor:
        search.zero_grad()
        out = value(weight, bias)
        out.backward()
        return out

    search.step(closure)  # type: ignore[no-untyped-call]
    assert here <= float(value(weight, bias).detach()) * (1 + 1e-4)
    plain = solve(made, KEEP, ridge=0.0)
    assert here < 0.9 * float(value(plain.weight[:, KEEP], plain.bias))


def test_no_round_raises_the_error() -> None:
    made, sample, start = problem()
    plateau = Plateau(0.0, FREE)
    errors = []
    for rounds in range(12):
        found = relaxed(made, KEEP, sample, plateau, None, ridge=1e-3, start=start, rounds=rounds)
        pull = float((found.weight[:, KEEP] - start[:, KEEP]).square().sum())
        power = float(Moments.from_rows(sample.x).second.diagonal().mean())
        errors.append(lost(plateau, outputs(found, sample), sample.y) + 1e-3 * power * pull)
    assert all(b <= a * (1 + 1e-6) for a, b in pairwise(errors))
    assert errors[-1] < 0.9 * errors[0]


def test_nothing_hidden_nothing_changes() -> None:
    made, sample, start = problem()
    plain = solve(made, KEEP, ridge=0.0)
    never = Plateau(-FREE, FREE)
    found = relaxed(made, KEEP, sample, never, None, ridge=1e-3, start=start, rounds=5)
    assert torch.allclose(found.weight, plain.weight, atol=1e-5)
    assert torch.allclose(found.bias, plain.bias, atol=1e-5)


def test_too_few_rows_are_not_learned_by_heart() -> None:
    made, sample, start = problem()
    few = sample.drawn(15, torch.Generator().manual_seed(0))
    assert len(few.x) == 15
    plain = solve(made, KEEP, ridge=0.0)
    found = relaxed(made, KEEP, few, Plateau(0.0, FREE), None, ridge=1e-3, start=start, rounds=5)
    assert torch.equal(found.weight, plain.weight)


def test_a_batch_norm_between_is_followed_and_a_faint_one_left_alone() -> None:
    made, sample, start = problem()
    draw = torch.Generator().manual_seed(1)
    slope = torch.tensor([-2.0, 0.5, 1.0])
    shift = torch.randn(3, generator=draw)
    for usable in (torch.ones(3, dtype=torch.bool), torch.tensor([True, False, True])):
        scale = Scale(slope, shift, usable)
        added = torch.randn(len(sample.x), 3, generator=draw)
        mine = Sample(sample.x, sample.y, added)
        plateau = Plateau(0.0, FREE)
        plain = solve(made, KEEP, ridge=0.0)
        found = relaxed(made, KEEP, mine, plateau, scale, ridge=1e-3, start=start, rounds=20)
        original = sample.y * slope + shift + added
        for out in range(3):
            one = Plateau(0.0, FREE)
            before, after = (
                lost(one, (outputs(s, sample) * slope + shift + added)[:, out], original[:, out])
                for s in (plain, found)
            )
            if usable[out]:
                assert after < before
            else:
                assert torch.allclose(found.weight[out], plain.weight[out], atol=1e-5)


def test_rows_are_drawn_and_joined_in_order() -> None:
    part = Sample(torch.arange(6.0)[:, None], torch.arange(6.0)[:, None], torch.ones(6, 1))
    few = part.drawn(3, torch.Generator().manual_seed(0))
    assert (
        len(few.x) == 3 and torch.equal(few.x, few.y) and torch.equal(few.x.sort(0).values, few.x)
    )
    both = Sample.joined([few, part])
    assert len(both.x) == 9 and both.added is not None and len(both.added) == 9
    assert wanted_rows(10, 10, 8) == 8192
    assert wanted_rows(10**6, 10, 8) < 2**27 / 10**6 + 1


class Chain(nn.Module):
    """A linear map, perhaps something added, and an activation."""

    def __init__(
        self, act: Callable[[Tensor], Tensor], *, second: bool = False, add: bool = False
    ) -> None:
        super().__init__()
        self.first, self.body = nn.Linear(4, 6), nn.Linear(6, 6)
        self.head, self.act, self.second, self.add = nn.Linear(6, 2), act, second, add

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x))
        y = self.body(x)
        z = self.act(x + y if self.add else y)
        return self.head(z) + (self.head(y) if self.second else 0)


CASES = [
    (torch.relu, {}, (0.0, FREE)),
    (torch.relu, {"add": True}, (0.0, FREE)),
    (nn.functional.relu6, {}, (0.0, 6.0)),
    (nn.functional.hardswish, {}, (-3.0, FREE)),
    (nn.functional.hardsigmoid, {}, (-3.0, 3.0)),
    (nn.functional.hardtanh, {}, (-1.0, 1.0)),
    (lambda x: nn.functional.hardtanh(x, -2.0, 0.5), {}, (-2.0, 0.5)),
    (lambda x: x.clamp(max=2.0), {}, (-FREE, 2.0)),
    (lambda x: x.clamp(min=0.5), {}, (0.5, FREE)),
    (torch.relu, {"second": True}, None),
    (nn.functional.gelu, {}, None),
    (lambda x: torch.maximum(x, x * 0.1), {}, None),
]


@pytest.mark.parametrize(("act", "kind", "ends"), CASES)
def test_the_activation_behind_a_consumer_is_found(
    act: Callable[[Tensor], Tensor], kind: dict[str, bool], ends: tuple[float, float] | None
) -> None:
    net = Chain(act, **kind).eval()
    x = torch.randn(3, 4)
    graph = trace(net, (x,))
    replay = Replay(net, (x,))
    body = next(c for c in graph.consumers if c.weight == "body.weight")
    found = find_plateau(replay, body, find_seam(replay, body.node))
    assert (None if found is None else (found.low, found.high)) == ends
    # What the record says is what the function does.
    if found is not None:
        z = torch.linspace(-8, 8, 401)
        below, above = z[z <= found.low], z[z >= found.high]
        for part in (below, above):
            assert not len(part) or float(act(part).std()) < 1e-6


def test_the_batch_norm_between_is_named() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, bias=False), nn.BatchNorm2d(8, eps=1e-3), nn.ReLU6(),
        nn.Flatten(), nn.Linear(8 * 16, 4),
    ).eval()  # fmt: skip
    x = torch.randn(2, 3, 8, 8)
    graph, replay = trace(net, (x,)), Replay(net, (x,))
    second = next(c for c in graph.consumers if c.weight == "2.weight")
    assert find_plateau(replay, second, None) == Plateau(0.0, 6.0, "3", 1e-3)


def test_a_cut_network_of_relus_keeps_more_of_its_output() -> None:
    """Wide hidden layers of few directions, cut by half; judged on inputs that nothing was fitted on."""
    gaps: dict[int, list[float]] = {0: [], 8: []}
    for seed in range(3):
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3)
        ).eval()  # fmt: skip
        x, unseen = torch.randn(4096, 10), torch.randn(2048, 10)
        bench = Workbench(net, trace(net, (x[:2],)), list(as_batches(list(x.split(512)))))
        path = search(bench, RefitConfig())
        plan = path.at(sprig.Budget(macs=0.4))
        assert isinstance(plan, Plan)
        for rounds, kept in gaps.items():
            outcome = realise(bench, plan, RefitConfig(rounds=rounds, ratio_pairs=0))
            small = sprig.shrink(net, outcome, bench.graph)
            with torch.no_grad():
                kept.append(float((small(unseen) - net(unseen)).square().mean()))
    assert sum(gaps[8]) < sum(gaps[0])
