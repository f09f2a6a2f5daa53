"""The quick size of `rates`: picks against the library's own rule, training against autograd, verdicts from figures."""

import copy
import math

import pytest
import torch

from sprig.core.errors import InputError
from sprig.methods.greedy.gram import Gram
from sprig.methods.greedy.uniform import imitation_errors
from sprig.studies import rates
from sprig.studies.neurons import draw, herd, loss_of, parts, subsets, train


def points(generator: torch.Generator, atoms: int = 12, size: int = 5) -> torch.Tensor:
    return torch.randn(atoms, size, generator=generator, dtype=torch.float64)


def test_picks_are_those_of_the_librarys_rule(generator: torch.Generator) -> None:
    """`imitation_errors` works on Gram matrices and knows only the target that is the network's own output."""
    z = points(generator) / 12
    target = z.sum(0)
    power = float(target @ target)
    gram = Gram(z @ z.mT, z @ target, power, power)
    found = herd(12 * z, target, 40)
    errors = imitation_errors(gram, 40) * float(target @ target) / len(target)
    assert torch.allclose(found.losses, errors, rtol=1e-8, atol=1e-15)


def test_every_pick_is_the_best_one(generator: torch.Generator) -> None:
    atoms, target = points(generator), points(generator, 1)[0]
    found = herd(atoms, target, 15)
    for n in range(1, 16):
        before = atoms[found.picks[: n - 1]].sum(0)
        tried = [float(((before + a) / n - target).square().mean()) for a in atoms]
        assert int(found.picks[n - 1]) == min(range(12), key=tried.__getitem__)
        assert float(found.losses[n - 1]) == pytest.approx(min(tried))
        assert int(found.distinct[n - 1]) == len(set(found.picks[:n].tolist()))


def test_the_bound_of_the_rate_holds(generator: torch.Generator) -> None:
    """Inside the hull the squared error is at most D^2 / n."""
    atoms = points(generator, 60, 8)
    target = atoms.mean(0)
    worst = float((atoms - target).square().sum(1).max())
    losses = herd(atoms, target, 200).losses * 8
    assert bool((losses <= worst / torch.arange(1, 201) + 1e-12).all())


def test_a_size_is_counted_in_different_neurons(generator: torch.Generator) -> None:
    atoms = points(generator, 30, 6)
    found = herd(atoms, atoms.mean(0), 400, distinct=5)
    assert int(found.distinct[-1]) == 6
    at = found.at(5)
    assert at is not None
    step, loss = at
    weights = found.weights(step, 30)
    assert int((weights > 0).sum()) <= 5
    assert float(weights.sum()) == pytest.approx(1.0)
    assert float((weights @ atoms - atoms.mean(0)).square().mean()) == pytest.approx(loss)
    assert found.at(7) is None
    with pytest.raises(InputError, match="at least one pick"):
        herd(atoms, atoms[0], 0)


def test_random_subsets_err_by_their_variance_over_n(generator: torch.Generator) -> None:
    atoms = points(generator, 50, 40)
    target = atoms.mean(0)
    one, ten = subsets(atoms, target, [1, 10], 400, generator)
    assert one == pytest.approx(float((atoms - target).square().mean()), rel=0.1)
    assert ten == pytest.approx(one / 10, rel=0.2)


def test_training_takes_the_gradients_of_autograd(generator: torch.Generator) -> None:
    """One step of Adam from zero moments moves every weight by the rate against its gradient's sign."""
    start = draw(6, 3, 1.0, generator)
    x, y = torch.randn(20, 3, generator=generator), torch.randn(20, generator=generator)
    weights = torch.rand(6, generator=generator)
    leaves = [t.clone().requires_grad_() for t in (start.w, start.b, start.a)]
    out = (weights * leaves[2] * torch.tanh(x @ leaves[0].mT + leaves[1])).sum(1)
    (out - y).square().mean().backward()
    moved = train(start, x, y, steps=1, lr=1e-3, weights=weights)
    for before, after, leaf in zip(
        (start.w, start.b, start.a), (moved.w, moved.b, moved.a), leaves
    ):
        assert leaf.grad is not None
        assert torch.allclose(after - before, -1e-3 * leaf.grad.sign(), atol=1e-6)


def test_networks_beside_each_other_do_not_touch(generator: torch.Generator) -> None:
    start = draw(8, 3, 1.0, generator)
    x, y = torch.randn(20, 3, generator=generator), torch.randn(20, generator=generator)
    both = parts(train(start, x, y, steps=30, lr=0.05, nets=2), 2)
    for part, alone in zip(both, parts(start, 2)):
        single = train(alone, x, y, steps=30, lr=0.05)
        assert torch.allclose(part.w, single.w, atol=1e-5)
        assert loss_of(part, x, y) < loss_of(alone, x, y)


def test_spread(generator: torch.Generator) -> None:
    cloud = torch.randn(4000, 6, generator=generator, dtype=torch.float64)
    wide, narrow = rates.spread(cloud)
    assert wide == pytest.approx(6, abs=0.1)
    assert narrow == pytest.approx(6**-0.5, rel=0.05)
    cloud[:, 0] *= 1e-3
    wide, narrow = rates.spread(cloud)
    assert wide == pytest.approx(5, abs=0.1)
    assert narrow == pytest.approx(1e-3 * 5**-0.5, rel=0.05)


def test_quick_findings(quick, finding) -> None:
    record = quick("rates")
    assert finding(record, "far ahead of random").holds is True
    assert finding(record, "Outside the hull").holds is True
    assert finding(record, "Picks are not neurons").holds is True
    rows = [r for s in record.seeds for r in record.figures[f"picks {s}"]["rows"]]
    for row in rows:
        assert all(g >= row["floor"] * (1 - 1e-9) for g in row["greedy"]), "a loss below the hull"
        assert (row["floor"] > 0.01) == (row["target"] == "off hull")
    scratch = [record.figures[f"networks {s}"]["arms"]["from scratch"] for s in record.seeds]
    assert all(row["n"] == list(rates.STUDY.quick.widths) for row in scratch)
    assert {t.title.split(":")[0] for t in record.conclusion.tables} >= {"Networks"}


def test_the_verdict_follows_the_figures(quick, finding) -> None:
    record = quick("rates")
    settings = rates.STUDY.quick
    made = copy.deepcopy(dict(record.figures))
    for seed in record.seeds:
        for row in made[f"picks {seed}"]["rows"]:
            power = -2.0 if row["points"] == min(settings.points) else -0.6
            jitter = 1 + 0.01 * seed
            row["greedy"] = [row["floor"] + n ** (power * jitter) for n in row["grid"]]
            row["random"] = [100 * g for g in row["greedy"]]
        arms = made[f"networks {seed}"]["arms"]
        for arm in arms.values():
            arm["n"] = list(settings.widths)
            arm["train"] = arm["test"] = [1 / n for n in arm["n"]]
        scratch = arms["from scratch"]
        scratch["train"] = [0.5 / n if n < 20 else 2.0 / n for n in scratch["n"]]
    conclusion = rates.STUDY.conclude(settings, made)
    says = {f.claim: (f.holds, f.says) for f in conclusion.findings}
    (steep,) = [v for k, v in says.items() if "falls like" in k]
    (flat,) = [v for k, v in says.items() if k.startswith("It falls more slowly")]
    (cross,) = [v for k, v in says.items() if "as they are" in k]
    assert steep[0] is True
    assert "-2.02" in steep[1]
    assert flat[0] is True
    assert cross[0] is True
    assert "from 20 neurons on" in cross[1]
    assert any("random pool" in k and v[0] is False for k, v in says.items())
    (table,) = [t for t in conclusion.tables if t.title.startswith("Picks")]
    first = table.rows[0]
    assert (first[0], first[3]) == (str(min(settings.points)), "inside")
    assert float(first[4].split()[0]) == pytest.approx(-2.02, abs=0.01)
    assert math.isclose(float(first[8].rstrip("×")), 100.0)
