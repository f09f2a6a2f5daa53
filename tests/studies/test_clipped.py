"""The ball and the clipped neuron: identities of the paper, gradients against autograd, dead starts."""

import math

import pytest
import torch

from sprig.core.errors import InputError
from sprig.studies import clipped


def test_laws_have_their_norms(generator: torch.Generator) -> None:
    norms = {law: clipped.ball(law, 6, 20_000, generator)[0].norm(dim=1) for law in clipped.LAWS}
    assert float(norms["uniform"].mean()) == pytest.approx(1.5, abs=0.03)
    assert float(norms["uniform"].max()) <= 3.0
    assert float(norms["cauchy"].median()) == pytest.approx(1.5, abs=0.06)
    assert float(norms["spheres"].square().mean()) == pytest.approx(2.0, abs=0.03)
    assert float(norms["spheres"].max()) <= 2.0 + 1e-9
    with pytest.raises(InputError, match="unknown law 'cube'"):
        clipped.ball("cube", 3, 10, generator)


def test_features_follow_the_papers_identity(generator: torch.Generator) -> None:
    """E[erf(<U, x> + B) | B >= 0] = (2 / pi) arctan(1 / sqrt(2 + |x|^2)), whatever the direction of x."""
    f = clipped.features(7, 200_000, generator)
    for size in (0.5, 1.5, 3.0):
        x = torch.randn(1, 7, generator=generator, dtype=torch.float64)
        x = x * (size / x.norm())
        found = float(f(x)[0, f.b >= 0].mean())
        assert found == pytest.approx(2 / math.pi * math.atan(1 / math.sqrt(2 + size**2)), abs=0.01)


def problem(generator: torch.Generator, n: int = 60, r: int = 12) -> tuple[torch.Tensor, ...]:
    x, y = clipped.ball("uniform", 3, n, generator)
    t = clipped.features(3, r, generator)(x)
    return x, y, t


def test_one_step_is_autograds(generator: torch.Generator) -> None:
    _, y, t = problem(generator)
    w, _ = clipped.alive(t, generator)
    leaf = w.clone().requires_grad_()
    ((t @ leaf).clamp(0, 1) - y).square().mean().backward()
    assert leaf.grad is not None
    assert float(leaf.grad.norm()) > 0
    moved = clipped.descend(t, y, w, 1)
    assert torch.allclose(moved, w - leaf.grad / clipped.smoothness(t), atol=1e-6)


def test_descent_falls_and_ends_at_its_goal(generator: torch.Generator) -> None:
    _, y, t = problem(generator)
    w, _ = clipped.alive(t, generator)
    risks = [clipped.risk(t, clipped.descend(t, y, w, n), y) for n in (0, 50, 400)]
    assert risks[0] > risks[1] > risks[2]
    goal = (risks[1] + risks[2]) / 2
    early = clipped.descend(t, y, w, 400, goal=goal)
    assert risks[2] < clipped.risk(t, early, y) <= goal + 1e-6


def test_linear_descent_in_closed_form(generator: torch.Generator) -> None:
    _, y, t = problem(generator)
    w, step = clipped.start(12, generator), 1 / clipped.smoothness(t)
    slow = w.clone()
    for _ in range(37):
        slow = slow - step * 2 / len(t) * (t.mT @ (t @ slow - y))
    assert torch.allclose(clipped.descend_linear(t, y, w, 37), slow, atol=1e-9)
    best = torch.linalg.lstsq(t, y[:, None]).solution[:, 0]
    assert torch.allclose(clipped.descend_linear(t, y, w, 10**9), best, atol=1e-3)


def test_dead_starts_are_seen_and_drawn_anew(generator: torch.Generator) -> None:
    _, y, t = problem(generator)
    positive = t.abs() + 1.0
    assert clipped.is_dead(positive, -torch.ones(12, dtype=torch.float64))
    dead = clipped.descend(positive, y, -torch.ones(12, dtype=torch.float64), 20)
    assert torch.equal(dead, -torch.ones(12, dtype=torch.float64)), "a dead start never moves"
    assert not clipped.is_dead(t, 0.01 * t.mean(0))
    # with one feature of one sign half of all starts are dead
    one = torch.full((30, 1), 0.5, dtype=torch.float64)
    shares = clipped.live_shares(one, 2000, generator)
    assert float((shares == 0).double().mean()) == pytest.approx(0.5, abs=0.1)
    w = clipped.start(12, generator)
    out = (t @ w).tolist()
    assert clipped.live(t, w) == pytest.approx(sum(0 < o < 1 for o in out) / len(out))
    redrawn = [clipped.alive(one, generator)[1] for _ in range(200)]
    assert sum(redrawn) / 200 == pytest.approx(1.0, abs=0.6)
    with pytest.raises(InputError, match="5 starts in a row were dead"):
        clipped.alive(torch.zeros(4, 2, dtype=torch.float64), generator, most=5)


def test_both_layers_learn(generator: torch.Generator) -> None:
    x, y, _ = problem(generator)
    f = clipped.features(3, 12, generator)
    w = clipped.start(12, generator)
    trained, v, c = clipped.descend_both(x, y, f, w, 200)
    assert float((trained(x) @ v + c - y).square().mean()) < float(
        (f(x) @ w + 0.5 - y).square().mean()
    )
    assert not torch.equal(trained.u, f.u.float().double())


def test_quick_study(quick, finding) -> None:
    record = quick("ball")
    rows = [r for c, f in record.figures.items() if c.startswith("risk") for r in f["rows"]]
    assert all(0 <= r["clipped"] <= 0.51 and r["best linear"] <= r["linear"] + 1e-9 for r in rows)
    arms = record.figures["pruning 0"]["arms"]
    assert len(arms) == 10
    assert finding(record, "picked greedily out of").holds is not False
    assert finding(record, "stays below the best possible linear").says.count(" against 0.") == 2
    assert all(0.2 < r["constant"] <= 0.25 for r in rows)


def test_the_verdict_follows_the_figures(quick) -> None:
    import copy

    from sprig.studies.ball import STUDY

    made = copy.deepcopy(dict(quick("ball").figures))
    for name, figures in made.items():
        if name.startswith("pruning"):
            for arm, row in figures["arms"].items():
                row["risk"] = 0.3 if arm.startswith(("random", "largest")) else 0.05
        if name.startswith("risk"):
            for row in figures["rows"]:
                row["clipped"], row["best linear"], row["dead"] = 0.2, 0.1, 0.0
    held = {f.claim: f.holds for f in STUDY.conclude(STUDY.quick, made).findings}
    assert [v for k, v in held.items() if "stays below" in k] == [False]
    assert [v for k, v in held.items() if "are dead" in k] == [False]
    assert [v for k, v in held.items() if "beat" in k] == [True]
    assert [v for k, v in held.items() if "add little" in k or "adds little" in k] == [True, True]
    assert [v for k, v in held.items() if "fatal" in k] == [True]
