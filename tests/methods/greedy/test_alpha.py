"""The re-weighting rules against brute force on explicit contributions z_i."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import orthogonal_mp_gram
from torch import Tensor

from sprig.core.errors import InputError
from sprig.core.stats import Moments
from sprig.methods.greedy.gram import Gram, atoms, gram
from sprig.methods.greedy.linesearch import linesearch
from sprig.methods.greedy.problem import ConsumerProblem
from sprig.methods.greedy.reweight import reweight
from sprig.methods.greedy.thinet import thinet
from sprig.methods.greedy.uniform import imitation_errors, rate_bound, uniform

SIZE = 6
KINDS = ("plain", "correlated", "deficient", "dead")


def contributions(layers, size=SIZE) -> tuple[Tensor, Tensor, float]:
    """z (size, everything), r, and the target's power, so that errors are plain squared norms."""
    z, r, power = [], [], 0.0
    for layer in layers:
        p = layer.problem
        w = p.own if p.own is not None else layer.weight
        x, y = layer.x, layer.y
        if p.centred:
            x, y = x - x.mean(0), y - y.mean(0)
        root = (p.weights(len(w)) / len(x)).sqrt()
        each = [
            (x[:, p.columns == i] @ w[:, p.columns == i].T * root).flatten()
            for i in range(-1, size)
        ]
        z.append(torch.stack(each[1:]))
        r.append((y * root).flatten() - each[0])
        power += float((y * root).square().sum())
    return torch.cat(z, 1), torch.cat(r), power


def two(layer, kind="plain", *, own=True, block=3):
    layers = [
        layer(kind, block=block, seed=5, metric=True, own=own),
        layer(kind, block=1, base=2, outputs=3, seed=6, scale=0.5, centred=False, own=own),
    ]
    g = torch.Generator().manual_seed(9)
    for lay in layers:
        lay.weight = torch.randn(lay.y.shape[1], lay.x.shape[1], generator=g, dtype=torch.float64)
    weights = None if own else [lay.weight for lay in layers]
    return layers, gram([lay.problem for lay in layers], SIZE, weights=weights)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("own", [True, False])
def test_the_gram_is_that_of_the_contributions(layer, kind, own):
    layers, g = two(layer, kind, own=own)
    z, r, power = contributions(layers)
    torch.testing.assert_close(g.matrix, z @ z.T, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(g.cross, z @ r, rtol=1e-9, atol=1e-9)
    assert g.rest == pytest.approx(float(r @ r)) and g.power == pytest.approx(power)
    alpha = torch.rand(SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert g.error(alpha) == pytest.approx(float((alpha @ z - r).square().sum()) / power)
    if own:  # b = G 1 and 1' G 1 = |r|^2
        torch.testing.assert_close(g.cross, g.matrix.sum(1), rtol=1e-9, atol=1e-9)
        assert float(g.matrix.sum()) == pytest.approx(g.rest)


RULES = {
    "uniform": uniform,
    "uniform-norm": lambda g: uniform(g, kind="norm"),
    "uniform-once": lambda g: uniform(g, replacement=False),
    "linesearch": linesearch,
    "linesearch-norm": lambda g: linesearch(g, kind="norm"),
    "linesearch-shrink": lambda g: linesearch(g, shrink=True),
    "reweight": reweight,
    "reweight-classic": lambda g: reweight(g, classic=True),
    "thinet": thinet,
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("own", [True, False])
def test_every_rule_reports_true_errors(layer, rule, kind, own):
    layers, g = two(layer, kind, own=own)
    z, r, power = contributions(layers)
    path = RULES[rule](g)
    assert sorted(path.order) == list(range(SIZE)) and len(path.errors) == SIZE + 1
    for n in range(SIZE + 1):
        alpha = path.alpha(n)
        assert int((alpha != 0).sum()) <= n
        if rule != "linesearch-shrink":
            assert not alpha[list(path.order[n:])].any()
        true = float((alpha @ z - r).square().sum()) / power
        assert path.errors[n] == pytest.approx(true, abs=1e-9)


@pytest.mark.parametrize("replacement", [True, False])
@pytest.mark.parametrize("kind", ["mean", "norm"])
def test_uniform_picks_by_brute_force(layer, replacement, kind):
    layers, g = two(layer)
    z, r, power = contributions(layers)
    pi, _, _ = atoms(g, kind)
    phi = z / pi[:, None]
    picks: list[int] = []
    errors = []
    for _ in range(24 if replacement else SIZE):
        left = [i for i in range(SIZE) if replacement or i not in picks]
        tried = {i: float((phi[[*picks, i]].mean(0) - r).square().sum()) for i in left}
        picks.append(min(tried, key=tried.__getitem__))
        errors.append(tried[picks[-1]] / power)
    path = uniform(g, replacement=replacement, kind=kind)
    first_seen = list(dict.fromkeys(picks))
    assert path.order[: len(first_seen)] == tuple(first_seen)
    if replacement:
        assert imitation_errors(g, 24, kind=kind).tolist() == pytest.approx(errors, abs=1e-10)
        n = len(set(picks[:10]))
        assert (
            path.errors[n]
            <= min(e for t, e in enumerate(errors[:10]) if len(set(picks[: t + 1])) == n) + 1e-12
        )
    else:
        assert path.errors[1:] == pytest.approx(errors, abs=1e-10)
        torch.testing.assert_close(path.alpha(3)[picks[0]], 1 / (3 * pi[picks[0]]))


@pytest.mark.parametrize("kind", ["mean", "norm"])
@pytest.mark.parametrize("inputs", KINDS)
def test_uniform_keeps_its_rate_and_ends_on_slope_minus_two(layer, inputs, kind):
    _, g = two(layer, inputs)
    errors = imitation_errors(g, 4000, kind=kind)
    bounds = [rate_bound(g, n, kind=kind) for n in range(1, 4001)]
    assert all(e <= b + 1e-12 for e, b in zip(errors.tolist(), bounds, strict=True))
    # The error oscillates below its envelope: compare the worst of two late stretches, 10 times apart.
    early, late = float(errors[200:400].max()), float(errors[2000:4000].max())
    slope = math.log10(late / early)
    assert -2.5 < slope < -1.6


def test_linesearch_steps_by_brute_force(layer):
    layers, g = two(layer)
    z, r, power = contributions(layers)
    phi = z * SIZE
    f = phi[int(((phi - r).square().sum(1)).argmin())]
    seen = {int(((phi - r).square().sum(1)).argmin()): float((f - r).square().sum())}
    order = list(seen)
    grid = torch.linspace(0, 1, 2001, dtype=torch.float64)[:, None]
    for _ in range(12):
        tried = [(((1 - grid) * f + grid * p - r).square().sum(1)).min(0) for p in phi]
        i = min(range(SIZE), key=lambda j: float(tried[j].values))
        gamma = float((f - r) @ (f - phi[i]) / (f - phi[i]).square().sum())
        assert abs(gamma - float(grid[tried[i].indices])) < 1e-3
        f = (1 - gamma) * f + gamma * phi[i]
        if i not in order:
            order.append(i)
    assert linesearch(g).order[: len(order)] == tuple(order)
    long = linesearch(g, steps=4000)
    assert long.errors[SIZE] < 1e-3 * long.errors[1]
    assert float((f - r).square().sum()) / power >= long.errors[len(order)] - 1e-12


def test_shrinking_is_never_worse_in_the_long_run_and_keeps_factors_positive(layer):
    _, g = two(layer, "correlated")
    for shrink in (False, True):
        path = linesearch(g, shrink=shrink, steps=500)
        assert bool((path.alphas >= 0).all())
        torch.testing.assert_close(
            path.alphas[1:].sum(1), torch.full((SIZE,), float(SIZE)).double()
        )


def test_shrinking_lets_a_unit_leave():
    """The target lies between atoms 1 and 2; the nearest single atom, 0, must go again."""
    z = torch.tensor([[0.0, 0.3], [-1.0, 0.0], [1.0, 0.0]], dtype=torch.float64) / 3
    r = torch.zeros(2, dtype=torch.float64)
    g = Gram(z @ z.T, z @ r, 0.0, 1.0)
    path = linesearch(g, shrink=True, steps=2000)
    plain = linesearch(g, steps=2000)
    assert path.order[0] == 0
    assert path.errors[2] < 1e-6 < plain.errors[2]
    assert path.alpha(2)[0] == 0


@pytest.mark.parametrize("classic", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_reweight_by_brute_force(layer, classic, kind):
    layers, g = two(layer, kind)
    z, r, power = (t.numpy() if isinstance(t, Tensor) else t for t in contributions(layers))
    path = reweight(g, classic=classic)
    rank = np.linalg.matrix_rank(z, tol=1e-8)

    def fit(picks):
        return np.linalg.lstsq(z[picks].T, r, rcond=None)[0] @ z[picks] if picks else 0 * r

    for n in range(rank):
        here = list(path.order[:n])
        rest = r - fit(here)
        left = [i for i in range(SIZE) if i not in here and np.abs(z[i]).max() > 1e-12]
        if classic:
            tried = {i: (z[i] @ rest) ** 2 / (z[i] @ z[i]) for i in left}
        else:
            tried = {i: rest @ rest - ((r - fit([*here, i])) ** 2).sum() for i in left}
        assert tried[path.order[n]] == pytest.approx(max(tried.values()), abs=1e-9)
        after = ((r - fit(list(path.order[: n + 1]))) ** 2).sum() / power
        assert path.errors[n + 1] == pytest.approx(after, abs=1e-9)
    assert all(a >= b for a, b in zip(path.errors, path.errors[1:], strict=False))


def test_classic_reweight_is_scikit_learns_matching_pursuit():
    g = torch.Generator().manual_seed(0)
    z = torch.nn.functional.normalize(torch.randn(9, 30, generator=g, dtype=torch.float64))
    r = torch.randn(9, generator=g, dtype=torch.float64) @ z + 0.2 * torch.randn(30, generator=g)
    quadratic = Gram(z @ z.T, z @ r, float(r @ r), float(r @ r))
    path = reweight(quadratic, classic=True)
    for n in range(1, 10):
        theirs = orthogonal_mp_gram((z @ z.T).numpy(), (z @ r).numpy(), n_nonzero_coefs=n)
        np.testing.assert_allclose(path.alpha(n), theirs, atol=1e-9)


def test_thinet_removes_the_smallest_summed_contribution(layer):
    layers, g = two(layer, "correlated")
    z, r, _ = contributions(layers)
    path = thinet(g)
    for n in range(SIZE, 0, -1):
        here = list(path.order[:n])
        tried = {i: float((z[[j for j in here if j != i]].sum(0) - r).square().sum()) for i in here}
        assert tried[here[-1]] == pytest.approx(min(tried.values()), abs=1e-10)
    assert path.errors[SIZE] == pytest.approx(0, abs=1e-12)


def test_order_of_strength_refit_then_reweight_then_imitation(layer):
    """On the same consumer every rule is a restriction of exact refit."""
    from sprig.methods.greedy.pursuit import value

    lay = layer("correlated", block=2, outputs=8)
    g = gram([lay.problem], SIZE)
    for rule in RULES.values():
        path = rule(g)
        for n in range(SIZE + 1):
            picks = path.alpha(n).nonzero().flatten().tolist()
            assert value([lay.problem], picks, size=SIZE, ridge=0.0) <= path.errors[n] + 1e-10


def test_nothing_to_imitate():
    problem = ConsumerProblem(
        Moments.from_rows(torch.zeros(4, 3)), torch.arange(3), own=torch.ones(2, 3)
    )
    g = gram([problem], 3)
    for rule in RULES.values():
        path = rule(g)
        assert path.order == (0, 1, 2) and set(path.errors) == {0.0}


def test_what_does_not_fit_is_refused(layer):
    lay = layer(own=False)
    with pytest.raises(InputError, match="no consumer"):
        gram([], 3)
    with pytest.raises(InputError, match="conv: give its present weights"):
        gram([lay.problem], SIZE)
    with pytest.raises(InputError, match="1 consumers need as many"):
        gram([lay.problem], SIZE, weights=[])
    with pytest.raises(InputError, match=r"weight of \(2, 6\)"):
        gram([lay.problem], SIZE, weights=[torch.ones(2, 6)])
    g = gram([lay.problem], SIZE, weights=[torch.ones(4, 6)])
    with pytest.raises(InputError, match="unknown atoms 'max'"):
        uniform(g, kind="max")
    with pytest.raises(InputError, match="must not be negative"):
        uniform(g, steps=-1)
    with pytest.raises(InputError, match="must not be negative"):
        linesearch(g, steps=-1)
    with pytest.raises(InputError, match="at least one pick"):
        rate_bound(g, 0)
