"""The rules that a group's units are picked by: each against the exact walk, all sets, and a network end to end."""

from itertools import combinations

import pytest
import torch
from torch import nn

import sprig
from sprig.core.errors import InputError
from sprig.methods.greedy.pursuit import backward, path, value
from sprig.methods.greedy.refit import RefitConfig
from sprig.methods.greedy.shelf import NESTED, SIZED, Chooser

SIZE = 7


@pytest.fixture(params=["plain", "correlated"])
def problems(request, layer):
    return [
        layer(request.param, block=2, size=SIZE, seed=1).problem,
        layer(request.param, block=1, size=SIZE, seed=2, outputs=3).problem,
    ]


def test_one_walk_serves_every_size(problems):
    for rule in NESTED:
        found = Chooser(rule, delta=0.3).walk(problems, SIZE)
        assert sorted(found.picks) == list(range(SIZE))
        for n in range(SIZE + 1):
            error = value(problems, found.picks[:n], size=SIZE, ridge=0.0)
            assert found.values[n] == pytest.approx(error, abs=1e-8)


def test_a_sample_of_everything_is_the_exact_walk(problems):
    exact = path(problems, SIZE, ridge=0.0)
    for rule, delta in (("exact", 0.5), ("stochastic", 1e-300), ("swap", 0.5)):
        found = Chooser(rule, delta=delta).walk(problems, SIZE)
        assert found.picks == exact.picks
    removed = Chooser("backward").walk(problems, SIZE)
    assert removed.picks == backward(problems, SIZE, ridge=0.0).picks


def test_seeds_decide_what_is_looked_at(problems):
    def order(seed: int) -> tuple[int, ...]:
        return Chooser("stochastic", delta=0.9, seed=seed).walk(problems, SIZE).picks

    assert order(0) == order(0)
    assert len({order(seed) for seed in range(6)}) > 1


@pytest.mark.parametrize("rule", [*NESTED, *SIZED])
@pytest.mark.parametrize("count", [1, 3, SIZE])
def test_a_set_of_a_size_is_found_and_none_beats_all_sets(problems, rule, count):
    picks = Chooser(rule, width=3).choose(problems, count, size=SIZE)
    assert len(set(picks)) == count
    here = value(problems, picks, size=SIZE, ridge=0.0)
    best = min(value(problems, s, size=SIZE, ridge=0.0) for s in combinations(range(SIZE), count))
    assert here >= best - 1e-9
    if rule in ("swap", "beam"):  # never worse than where they begin
        exact = path(problems, SIZE, ridge=0.0).values[count]
        assert here <= exact + 1e-9
    if rule == "beam":
        wide = Chooser(rule, width=99).choose(problems, count, size=SIZE)
        assert value(problems, wide, size=SIZE, ridge=0.0) == pytest.approx(best, abs=1e-9)


def test_lazy_and_unknown_rules_are_refused():
    for rule, said in (("lazy", "never grow"), ("eager", "known are exact")):
        with pytest.raises(InputError, match=said):
            Chooser(rule)


def test_exchanges_follow_any_rule(problems):
    for rule in ("exact", "stochastic"):
        alone = Chooser(rule, delta=0.9).choose(problems, 3, size=SIZE)
        after = Chooser(rule, delta=0.9, swaps=5).choose(problems, 3, size=SIZE)
        errors = [value(problems, s, size=SIZE, ridge=0.0) for s in (alone, after)]
        assert errors[1] <= errors[0] + 1e-9
        assert Chooser(rule, swaps=5).waits and not Chooser(rule).waits


@pytest.mark.parametrize("rule", [*NESTED[1:], *SIZED])
def test_a_network_is_cut_by_every_rule(rule):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 3)
    ).eval()
    x = torch.randn(256, 6)
    cut = sprig.prune(
        net, (x[:2],), [x], sprig.Budget(macs=0.5), config=RefitConfig(rule=rule, ratio_pairs=4)
    )
    assert cut.certificate.passed
    assert cut.plan.config["rule"] == rule


def test_a_network_refuses_the_lazy_rule():
    net = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3)).eval()
    x = torch.randn(64, 6)
    with pytest.raises(InputError, match="never grow"):
        sprig.prune(net, (x[:2],), [x], sprig.Budget(macs=0.5), config=RefitConfig(rule="lazy"))
