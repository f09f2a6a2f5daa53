"""Penalties on single weights: gradients, proxes, closed forms; every argument counts."""

from dataclasses import fields, replace

import pytest
import torch

from sprig.core.errors import InputError
from sprig.methods.penalties.adaptive_lasso import AdaptiveLasso
from sprig.methods.penalties.halo import Halo
from sprig.methods.penalties.horseshoe import Horseshoe
from sprig.methods.penalties.l1 import L1, Ridge
from sprig.methods.penalties.mcp import Mcp
from sprig.methods.penalties.scad import Scad
from sprig.methods.penalties.sws import Sws

# With settings under which pieces, knees and floors all lie among the weights below.
PLAIN = [
    L1(strength=0.3),
    Ridge(strength=0.3),
    Mcp(strength=0.3, knee=0.7),
    Scad(strength=0.3, threshold=0.3, a=3.0),
    AdaptiveLasso(strength=0.3, power=0.7, floor=0.1),
    Horseshoe(strength=0.05, scale=0.5, floor=0.1),
    Sws(xi=0.02, psi=0.4, start=0.5, rate=0.7),
    Sws(xi=0.02, psi=0.4, mode="closed"),
    Halo(xi=0.02, psi=0.03, start=0.5, rate=0.7, decay=0.01),
    Halo(xi=0.02, psi=0.03, start=0.5, budget=0.3, rate=0.1),
    Halo(xi=0.02, psi=0.03, start=0.5, budget=0.3, square=True, rate=0.1),
    Halo(xi=0.02, psi=0.03, mode="closed"),
    Halo(xi=0.02, psi=0.03, decay=0.02, mode="closed"),
]
ids = [f"{type(p).__name__}-{i}" for i, p in enumerate(PLAIN)]


def some(generator, *, grad=False):
    made = [
        torch.randn(5, 4, generator=generator).double(),
        torch.randn(7, generator=generator).double(),
    ]
    return [w.requires_grad_(grad) for w in made]


def at_work(penalty, weights):
    """A state after a few of the penalty's own steps."""
    state = penalty.init([w.detach() for w in weights])
    for _ in range(3):
        state = penalty.advance([w.detach() for w in weights], state, lr=0.1)
    return state


@pytest.mark.parametrize("penalty", PLAIN, ids=ids)
def test_push_is_the_gradient_of_value(penalty, generator):
    weights = some(generator, grad=True)
    state = at_work(penalty, weights)
    expected = torch.autograd.grad(penalty.value(weights, state), weights)
    for ours, theirs in zip(penalty.push([w.detach() for w in weights], state), expected):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("penalty", PLAIN, ids=ids)
@pytest.mark.parametrize("lr", [0.1, 1.0, 5.0])
def test_prox_is_the_best_point_on_a_fine_grid(penalty, lr, generator):
    """In one dimension all can be tried; 5.0 makes the concave ones hard thresholds."""
    weights = some(generator)
    state = at_work(penalty, weights)
    found = penalty.prox(weights, state, lr=lr)
    for i, (w, x) in enumerate(zip(weights, found)):
        for j in range(0, w.numel(), 3):
            grid = torch.linspace(-3, 3, 6001, dtype=torch.float64)
            local = isinstance(penalty, Horseshoe)  # its prox goes downhill, to the next minimum
            if local:
                grid = x.flatten()[j] + torch.linspace(-0.01, 0.01, 201, dtype=torch.float64)

            def harm(points, w=w, i=i, j=j):
                return (points - w.flatten()[j]).square() / (2 * lr) + cost(
                    penalty, state, points, i, j, weights
                )

            here = harm(x.flatten()[j].reshape(1))
            assert float(here) <= float(harm(grid).min()) + (1e-9 if local else 1e-6)


def cost(penalty, state, points, i, j, weights):
    """The penalty of one weight alone, at many points."""
    if isinstance(penalty, Sws):
        return penalty.xi / penalty.coefficient(weights, state).square() * points.abs()
    if isinstance(penalty, Halo):
        return penalty.xi * points.abs() / penalty.coefficients(weights, state)[i].flatten()[j] ** 2
    if isinstance(penalty, AdaptiveLasso):
        return penalty.strength * state["factors"][i].flatten()[j] * points.abs()
    return torch.vmap(lambda p: penalty.value([p.reshape(1)], state))(points)


@pytest.mark.parametrize("decay", [False, True])
def test_coefficients_of_halo_come_to_the_closed_form(decay, generator):
    """l = (2 xi |w| / psi)^(1/3), and with decay alone (2 xi |w| / decay)^(1/4), within 1%."""
    weights = [torch.logspace(-3, 0, 40).double()]
    strength = {"psi": 0.0, "decay": 2e-3} if decay else {"psi": 2e-3}
    halo = Halo(xi=1e-3, rate=1.0, **strength)
    state = halo.init(weights)
    for _ in range(4000):
        state = halo.advance(weights, state, lr=0.05)
    law = weights[0] ** 0.25 if decay else weights[0] ** (1 / 3)
    torch.testing.assert_close(state["coefficients"][0], law, rtol=0.01, atol=0)


def test_weights_and_coefficients_trained_together_end_on_the_law(generator):
    """Joint SGD as published, on least squares: at its end the law holds for every weight that is not at zero."""
    x = torch.randn(200, 12, generator=generator).double()
    truth = torch.tensor([1.5, -1, 0.8, -0.6, 0.5, 0.4] + [0.0] * 6).double()
    w = torch.zeros(12).double()
    halo = Halo(xi=1e-3, psi=1e-2, rate=5.0, momentum=0.0)
    w += truth + 0.1 * torch.randn(12, generator=generator).double()
    state = halo.init([w])
    for _ in range(3000):
        gradient = x.T @ (x @ w - x @ truth) / 200 + halo.push([w], state)[0]
        state = halo.advance([w], state, lr=0.02)
        w = w - 0.02 * gradient
    alive = w.abs() > 0.1
    assert alive.tolist() == [True] * 6 + [False] * 6
    law = (2 * 1e-3 * w.abs() / 1e-2) ** (1 / 3)
    torch.testing.assert_close(state["coefficients"][0][alive], law[alive], rtol=0.01, atol=0)


@pytest.mark.parametrize(("psi", "decay"), [(0.3, 0.0), (0.0, 0.2), (0.3, 0.2), (1e-6, 5.0)])
def test_the_closed_form_is_the_least(psi, decay):
    """The profile over a fine grid of coefficients has its minimum where the formula says."""
    halo = Halo(xi=0.1, psi=psi, decay=decay, mode="closed", floor=1e-3)
    size = torch.tensor([0.02, 0.5, 2.0]).double()
    grid = torch.logspace(-2, 2, 200_001).double()
    for r, found in zip(size, halo.coefficients([size], {})[0]):
        harm = 0.1 * r / grid**2 + psi * grid + decay / 2 * grid**2
        assert float(found) == pytest.approx(float(grid[harm.argmin()]), rel=2e-4)


def test_the_profile_of_halo_is_a_bridge():
    """P(w) = 3 * 2^(-2/3) psi^(2/3) (xi |w|)^(1/3); with decay alone sqrt(2 xi decay |w|)."""
    w = torch.tensor([0.3]).double()
    value = Halo(xi=0.2, psi=0.05, mode="closed").value([w], {})
    assert float(value) == pytest.approx(
        3 * 2 ** (-2 / 3) * 0.05 ** (2 / 3) * (0.2 * 0.3) ** (1 / 3)
    )
    value = Halo(xi=0.2, psi=0.0, decay=0.05, mode="closed").value([w], {})
    assert float(value) == pytest.approx((2 * 0.2 * 0.05 * 0.3) ** 0.5)


def test_the_coefficients_step_is_the_gradient_of_value(generator):
    weights = some(generator)
    for halo in PLAIN:
        if not isinstance(halo, Halo) or halo.mode == "closed":
            continue
        state = halo.init(weights)
        leaves = [c.clone().requires_grad_() for c in state["coefficients"]]
        value = halo.value(weights, {"coefficients": leaves})
        with torch.enable_grad():
            value = _with_leaves(halo, weights, leaves)
        slopes = torch.autograd.grad(value, leaves)
        state = halo.advance(weights, state, lr=1e-3)
        for new, old, slope in zip(state["coefficients"], leaves, slopes):
            torch.testing.assert_close(
                new, old.detach() - 1e-3 * halo.rate * slope, rtol=1e-9, atol=1e-12
            )


def _with_leaves(halo, weights, leaves):
    n = sum(c.numel() for c in leaves)
    spread = sum(c.sum() for c in leaves)
    own = halo.psi * (
        n * (spread / n - halo.budget) ** 2 if halo.square else (spread - halo.budget * n).abs()
    )
    pulled = sum((halo.xi * w.abs() / c**2).sum() for w, c in zip(weights, leaves))
    return pulled + own + halo.decay / 2 * sum((c**2).sum() for c in leaves)


def test_sws_comes_to_its_closed_form(generator):
    weights = some(generator)
    sws = Sws(xi=1e-3, psi=1e-2, rate=1.0)
    state = sws.init(weights)
    for _ in range(4000):
        state = sws.advance(weights, state, lr=0.05)
    size = sum(float(w.abs().sum()) for w in weights)
    assert float(state["coefficient"]) == pytest.approx((1e-3 * size / 1e-2) ** 0.25, rel=0.01)
    closed = Sws(xi=1e-3, psi=1e-2, mode="closed")
    assert float(closed.value(weights, {})) == pytest.approx(2 * (1e-3 * 1e-2 * size) ** 0.5)


def trail(penalty, weights):
    """All that a penalty does to weights in a few steps, as one vector."""
    state = penalty.init(weights)
    now = [w.clone() for w in weights]
    for _ in range(30):
        pushes = penalty.push(now, state)
        state = penalty.advance(now, state, lr=0.1)
        if penalty.pushes:
            now = [w - 0.1 * p for w, p in zip(now, pushes)]
        if penalty.proximal:
            now = penalty.prox(now, state, lr=0.1)
    return torch.cat([w.flatten() for w in now])


OTHER = {
    "mode": ("push", "prox", "joint", "proximal"),
    "square": (True, False),
    "floor": (0.499, 1.5),
    "budget": (0.24, 0.6),
}


@pytest.mark.parametrize("penalty", PLAIN, ids=ids)
def test_every_argument_changes_something(penalty, generator):
    weights = some(generator)
    base = trail(penalty, weights)
    for field in fields(penalty):
        value = getattr(penalty, field.name)
        closed = getattr(penalty, "mode", "") == "closed"
        if closed and field.name in ("start", "rate", "momentum"):
            with pytest.raises(InputError, match="which says nothing in mode closed"):
                replace(penalty, **{field.name: 0.8 * value})
            continue  # there are no steps to set
        if closed and field.name in ("budget", "square"):
            continue  # refused, too: there is no formula
        if field.name == "square" and penalty.budget == 0:
            continue  # tried with a budget
        tries = OTHER.get(field.name) or (0.25 if value == 0 else value * 0.8,)
        changed = []
        for other in tries:
            if other == value:
                continue
            try:
                twin = replace(penalty, **{field.name: other})
            except InputError:
                continue
            changed.append(not torch.equal(trail(twin, weights), base))
        assert any(changed), field.name


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: L1(strength=-1.0), "strength is -1.0, expected at least 0"),
        (lambda: L1(mode="hard"), "mode is 'hard', expected push or prox"),
        (lambda: Mcp(knee=0.0), "knee is 0.0"),
        (lambda: Scad(a=1.0), "a is 1.0, expected more than 1"),
        (lambda: AdaptiveLasso(power=-1.0), "power is -1.0"),
        (lambda: Horseshoe(scale=0.0), "scale is 0.0"),
        (lambda: Sws(psi=0.0, mode="closed"), "psi is 0.0"),
        (lambda: Halo(floor=2.0), "floor is 2.0"),
        (lambda: Halo(mode="closed", budget=0.2), "there is no formula"),
        (lambda: Halo(mode="closed", psi=0.0), "psi or decay above 0"),
        (lambda: Halo(momentum=1.0), r"momentum is 1.0, expected in \[0, 1\)"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, text):
    with pytest.raises(InputError, match=text):
        make()


@pytest.mark.parametrize("size", [1e-3, 0.1, 1.0])
@pytest.mark.parametrize("xi", [1e-4, 1e-3])
def test_a_coefficient_that_lags_behind_comes_back_without_being_thrown_far(xi, size):
    halo = Halo(xi=xi, psi=xi)
    weights = [torch.tensor([size, -size])]
    state = halo.init(weights)
    state["coefficients"][0].fill_(halo.least)  # as of a weight that was zero for long
    seen = [halo.least]
    for _ in range(2000):
        halo.advance(weights, state, lr=0.1)
        seen.append(float(state["coefficients"][0][0]))
        assert 0.499 < seen[-1] / seen[-2] < 2.001
    law = (2 * size) ** (1 / 3)
    assert max(seen) < 3 * law
    assert seen[-1] == pytest.approx(law, rel=0.01)


def test_without_a_floor_the_pull_has_a_bound():
    for xi in (1e-8, 1e-4, 1e-2):
        halo = Halo(xi=xi, psi=1e-4)
        least = torch.tensor([halo.least])
        assert float(halo.push([torch.ones(1)], {"coefficients": [least]})[0]) <= 0.1 + 1e-6
    assert Halo(xi=1e-4).least == pytest.approx(1e-4**0.5 / 0.1**0.5)
    assert Halo(xi=10.0).least == 1.0  # never above the start
    assert Halo(floor=0.2).least == 0.2
