"""The quick size of `weak-submodular`, its designs, and that its verdict follows the figures."""

import copy
import itertools

import pytest
import torch

from sprig.greedy import LeastSquares, maximise
from sprig.studies import weak_submodular
from sprig.studies.designs import ar1, held_out, suppressors
from sprig.studies.page import markdown


def test_the_design_has_the_papers_correlations() -> None:
    x, y, new, target, support = ar1(0, 400, 500, 40)
    assert (x.shape, new.shape, y.shape, len(support)) == ((500, 400), (500, 400), (500,), 40)
    unit = (x - x.mean(0)) / x.std(0)
    near = float((unit[:, 1:] * unit[:, :-1]).mean())
    assert near == pytest.approx(0.75**0.5, abs=0.02)
    true = sorted(support)
    assert held_out(x, y, new, target, true) > 0.97  # noise is a hundredth of the signal
    assert LeastSquares(x, y).worth(true) > 0.98


def test_held_out_r2_is_that_of_a_plain_regression(generator: torch.Generator) -> None:
    x = torch.randn(30, 4, generator=generator, dtype=torch.float64)
    y = x[:, 1] - 2 * x[:, 3] + 5
    assert held_out(x[:20], y[:20], x[20:], y[20:], [1, 3]) == pytest.approx(1.0)
    assert held_out(x[:20], y[:20], x[20:], y[20:], [0]) < 0.5


def test_suppressors_make_gains_grow() -> None:
    objective = LeastSquares(*suppressors(0))
    nuisance = torch.tensor([2])
    alone = float(objective.gains(objective.start(), nuisance)[0])
    behind = float(objective.gains(objective.add(objective.start(), 0), nuisance)[0])
    assert behind > 10 * alone


def test_quick_figures_against_brute_force(quick) -> None:
    """The exact arm of the study is `maximise`, and no arm beats the best set that swapping one column can reach."""
    record = quick("weak-submodular")
    settings = weak_submodular.STUDY.quick
    x, y, *_ = ar1(0, settings.features, settings.rows, settings.true)
    objective = LeastSquares(x, y)
    arms = record.figures["ar1 0"]["arms"]
    exact = maximise(objective, settings.picks)
    assert arms["exact"]["r2"] == pytest.approx(exact.value)
    assert arms["exact"]["evaluations"] == sum(settings.features - i for i in range(settings.picks))
    best = max(range(settings.features), key=lambda i: objective.worth([i]))
    assert exact.picks[0] == best
    single = sorted(range(settings.features), key=lambda i: -objective.worth([i]))[: settings.picks]
    assert arms["singly best"]["r2"] == pytest.approx(objective.worth(single))


def test_quick_findings(quick, finding) -> None:
    record = quick("weak-submodular")
    assert record.size == "quick"
    for words in (
        "Distributed picks keep",
        "best part alone",
        "Lazy evaluation",
        "nothing is distributed",
    ):
        assert finding(record, words).holds is True, words
    assert f"in {record.figures['suppressors']['refused']}." in finding(record, "Lazy").says
    text = markdown(record)
    assert "| exact | " in text
    assert "not a number" not in text
    assert "nan" not in text


def test_the_verdict_follows_the_figures(quick, finding) -> None:
    """Worse figures, worse verdict: nothing is written down beforehand."""
    record = quick("weak-submodular")
    settings = weak_submodular.STUDY.quick
    worse = copy.deepcopy(dict(record.figures))
    for cell, row in worse.items():
        if cell.startswith("ar1"):
            row["arms"]["distributed, 2 parts"]["r2"] *= 0.9
            row["same"] = False
        if cell.startswith("logistic"):
            row["arms"]["stochastic, delta 0.1"]["likelihood"] = 0.0
    worse["suppressors"]["refused"] = 0
    conclusion = weak_submodular.STUDY.conclude(settings, worse)
    held = {f.claim: f.holds for f in conclusion.findings}
    before = {f.claim: f.holds for f in record.conclusion.findings}
    changed = {claim for claim in held if held[claim] is not before[claim]}
    words = (
        "Distributed picks keep",
        "nothing is distributed",
        "Lazy evaluation",
        "smaller samples",
    )
    assert all(any(w in claim for claim in changed) for w in words)
    assert not any(held[claim] for claim in changed)


def test_seeds_are_draws_of_their_own(quick) -> None:
    figures = quick("weak-submodular").figures
    values = [figures[f"ar1 {s}"]["arms"]["exact"]["r2"] for s in (0, 1)]
    values += [figures[f"logistic {s}"]["arms"]["random"]["likelihood"] for s in (0, 1)]
    assert all(a != b for a, b in itertools.combinations(values, 2))
