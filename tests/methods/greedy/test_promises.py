"""What a certificate says of a returned set, against all sets of its size."""

import math
from dataclasses import replace
from itertools import combinations

import pytest
import torch
from torch import nn

import sprig
from sprig.core.plan import Plan
from sprig.core.tracing import trace
from sprig.core.workbench import Workbench
from sprig.methods.greedy.bounds import submodularity_ratio
from sprig.methods.greedy.promises import promised
from sprig.methods.greedy.pursuit import path, value
from sprig.methods.greedy.refit import RefitConfig, ratios
from sprig.methods.greedy.shelf import Chooser

SIZE = 6


@pytest.fixture(params=["plain", "correlated"])
def problems(request, layer):
    return [
        layer(request.param, block=2, size=SIZE, seed=1).problem,
        layer(request.param, block=1, size=SIZE, seed=2, outputs=3).problem,
    ]


def told(problems, kept, *, pairs=10_000, rule="exact"):
    return promised(
        problems, kept, size=SIZE, pairs=pairs, chooser=Chooser(rule),
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip


def explained(problems, kept) -> float:
    empty, here = (value(problems, s, size=SIZE, ridge=0.0) for s in ((), kept))
    return empty - here


@pytest.mark.parametrize("count", [2, 3, 4])
def test_every_set_keeps_its_promise_and_the_ratio_is_that_of_greedy_picks(problems, count):
    best = max(explained(problems, s) for s in combinations(range(SIZE), count))
    greedy = path(problems, SIZE, ridge=0.0, steps=count).picks
    own = submodularity_ratio(problems, greedy, size=SIZE, ridge=0.0)
    for kept in combinations(range(SIZE), count):
        row = told(problems, kept)
        assert row["exact"] and row["ratio"] == pytest.approx(own.value, abs=1e-9)
        assert row["reached"] == pytest.approx(explained(problems, kept), abs=1e-9)
        share = row["of_exact"] * -math.expm1(-row["ratio"])
        assert row["promised"] == pytest.approx(min(1.0, share), abs=1e-12)
        assert row["reached"] >= row["promised"] * best - 1e-9
        assert row["ceiling"] >= best - 1e-9
    assert told(problems, tuple(sorted(greedy)))["of_exact"] == pytest.approx(1.0, abs=1e-9)


def test_a_beginning_in_the_order_of_numbers_is_no_beginning_of_the_picks(layer):
    """The mistake to be kept out: the units of a plan are sorted, the picks are not."""
    gaps = []
    for seed in range(1, 9):
        problems = [layer("correlated", block=2, size=SIZE, seed=seed).problem]
        greedy = path(problems, SIZE, ridge=0.0, steps=4).picks
        by_number = submodularity_ratio(problems, sorted(greedy), size=SIZE, ridge=0.0)
        gaps.append(abs(told(problems, tuple(sorted(greedy)))["ratio"] - by_number.value))
    assert max(gaps) > 1e-3, "the order matters in some of these layers"


@pytest.mark.parametrize(
    ("rule", "formula", "mean"),
    [
        ("stochastic", "1 - e^-gamma - delta", 1.0),
        ("distributed", "nu/2 (1 - e^-gamma)", 1.0),
        ("backward", "no bound is known for backward picks", 0.0),
        ("beam", "1 - e^-gamma", 0.0),
    ],
)
def test_other_rules_state_their_own_theorem(problems, rule, formula, mean):
    row = told(problems, (0, 1, 2), rule=rule)
    assert (row["rule"], row["theorem"], row["in_the_mean"]) == (rule, formula, mean)
    assert row["vacuous"] == float(row["theorem_value"] <= 1e-9) == float(rule == "backward")


def test_the_certificate_of_a_run_states_it_per_group() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    x = torch.randn(256, 6)
    config = RefitConfig(rule="distributed", ratio_pairs=10)
    result = sprig.prune(net, (x[:2],), [x], sprig.Budget(params=0.6), config=config)
    claim = next(c for c in result.certificate.claims if c.name == "submodularity-ratio")
    row = claim.detail["groups"]["0"]
    assert row["theorem"] == "nu/2 (1 - e^-gamma)" and 0 < row["theorem_value"] < 0.5
    assert claim.detail["reaches"] == row["promised"] > 0
    exact = ratios(
        Workbench(net, trace(net, (x[:2],)), [((x,), {}, None)]),
        Plan.from_json(result.plan.to_json()), replace(config, rule="exact"),
    )  # fmt: skip
    assert "theorem" not in exact["0"]
