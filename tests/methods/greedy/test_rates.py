"""What theory promises of imitation with replacement: constants, both rates, and the claim in a certificate."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import sprig
from sprig.core import optimality
from sprig.methods.greedy.gram import Gram
from sprig.methods.greedy.gramwise import UniformConfig
from sprig.methods.greedy.uniform import constants, imitation_errors, picks_within
from sprig.workflow.recheck import _repeated

MANY = 400


def spread(units: int, space: int, seed: int = 0) -> tuple[Tensor, Gram]:
    """Units that contribute z_i in a space of few dimensions; the target is their sum."""
    z = torch.randn(
        units, space, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    target = z.sum(0)
    power = float(target @ target)
    return z, Gram(z @ z.mT, z @ target, power, power)


def inradius(atoms: Tensor, target: Tensor) -> float:
    """Of the hull around the target, in the plane, by looking in every direction."""
    angle = torch.linspace(0, 2 * math.pi, 200_001, dtype=torch.float64)
    toward = torch.stack([angle.cos(), angle.sin()])
    return float(((atoms - target) @ toward).amax(0).min())


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("units", [3, 5, 40])
def test_the_ball_is_inside_the_hull_and_no_atom_is_farther(units: int, seed: int) -> None:
    z, g = spread(units, 2, seed)
    known, target = constants(g), z.sum(0)
    atoms = units * z
    assert known.inside
    assert 0 < known.radius * math.sqrt(g.power) <= inradius(atoms, target)
    far = float((atoms - target).square().sum(1).max()) / g.power
    assert known.farthest == pytest.approx(far)


def test_of_a_square_the_ball_is_half_as_wide_as_its_diagonals_arms() -> None:
    corners = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]], dtype=torch.float64)
    z = (corners + torch.tensor([3.0, 0])) / 4
    target = z.sum(0)
    power = float(target @ target)
    known = constants(Gram(z @ z.mT, z @ target, power, power))
    assert known.farthest * power == pytest.approx(1)
    assert known.radius * math.sqrt(power) == pytest.approx(0.5)  # true: 1 / sqrt 2


@pytest.mark.parametrize("space", [1, 2, 6])
@pytest.mark.parametrize("kind", ["mean", "norm"])
def test_no_error_is_above_either_rate(space: int, kind: str) -> None:
    _, g = spread(30, space)
    known, errors = constants(g, kind=kind), imitation_errors(g, MANY, kind=kind).tolist()
    for n, error in enumerate(errors, start=1):
        assert error <= min(known.first(n), known.second(n)) * (1 + 1e-9) + 1e-14
    turn = next(n for n in range(1, 10**7) if known.second(n) < known.first(n))
    assert known.second(100 * turn) < known.first(100 * turn) / 50, "the second falls faster"


def test_a_target_outside_the_hull_is_seen() -> None:
    z, g = spread(6, 3)
    aim = z.sum(0) + 100
    away = Gram(g.matrix, z @ aim, float(aim @ aim), float(aim @ aim))
    assert not constants(away).inside


def test_picks_are_counted_until_one_unit_too_many() -> None:
    z, g = spread(8, 4, seed=1)
    atoms, target = 8 * z, z.sum(0)
    for most in range(1, 9):
        total, seen, n = torch.zeros(4, dtype=torch.float64), set[int](), 0
        while n < 32:
            trial = ((total + atoms) / (n + 1) - target).square().sum(1)
            pick = int(trial.argmin())
            if len(seen | {pick}) > most:
                break
            total, n = total + atoms[pick], n + 1
            seen.add(pick)
        picks, chosen, error = picks_within(g, most)
        assert (picks, chosen) == (n, seen)
        assert error == pytest.approx(float((total / n - target).square().sum()) / g.power)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 40), nn.ReLU(), nn.Linear(40, 3)).eval()


def test_the_certificate_states_the_rates_and_they_are_recomputed(tmp_path) -> None:
    model, x = net(), torch.randn(400, 2, generator=torch.Generator().manual_seed(1))
    data = list(x.split(100))
    result = sprig.prune(
        model, (x[:1],), data, sprig.Budget(macs=0.7), method="uniform", config=UniformConfig()
    )
    claim = next(c for c in result.certificate.claims if c.name == "imitation-rate")
    assert claim.passed
    (row,) = claim.detail["groups"].values()
    kept = len(next(iter(result.plan.keep.values())))
    assert row["picks"] >= kept
    assert row["error"] <= row["imitation"] + 1e-9
    assert row["imitation"] <= min(row["first"], row["second"])
    assert row["first"] == pytest.approx(row["farthest"] / row["picks"])
    assert result.certificate.passed
    folder = result.save(tmp_path / "run")
    again = sprig.verify(folder, model, data)
    assert next(c for c in again.claims if c.name == "imitation-rate").passed
    assert again.passed


def test_a_claim_that_cannot_be_worked_out_again_fails() -> None:
    known = {"picks": 4.0, "error": 0.2, "imitation": 0.2, "farthest": 2.0, "radius": 0.0}
    (claim,) = optimality.rates({"a": {**known, "first": 0.5, "second": 1e300}}, "calibration")
    assert [c.passed for c in _repeated([claim], [claim])] == [True]
    other = replace(claim, value=claim.value + 0.1)
    assert [c.passed for c in _repeated([other], [claim])] == [False]
    (gone,) = _repeated([], [claim])
    assert not gone.passed
    assert "cannot be worked out" in gone.how


def test_a_rule_without_replacement_or_another_set_is_promised_nothing() -> None:
    model, x = net(), torch.randn(400, 2, generator=torch.Generator().manual_seed(1))
    result = sprig.prune(
        model, (x[:1],), list(x.split(100)), sprig.Budget(macs=0.7), method="uniform",
        config=UniformConfig(replacement=False),
    )  # fmt: skip
    assert "imitation-rate" not in {c.name for c in result.certificate.claims}


def test_what_says_nothing_is_called_vacuous_and_what_is_broken_fails() -> None:
    row = {"picks": 4.0, "error": 0.2, "imitation": 0.2, "farthest": 8.0, "radius": 0.0}
    (claim,) = optimality.rates({"a": {**row, "first": 2.0, "second": 1e300}}, "calibration")
    assert claim.passed
    assert "vacuous for 1 of 1 groups" in claim.statement
    assert claim.detail["groups"]["a"]["bound"] == "vacuous"
    (claim,) = optimality.rates({"a": {**row, "first": 0.5, "second": 0.1}}, "calibration")
    assert not claim.passed
    assert claim.value == pytest.approx(2)
