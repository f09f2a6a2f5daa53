"""Every rule of `sprig.greedy` on a layer's refit: the pursuit and elimination of this room, found again."""

import pytest
import torch

from sprig.greedy import ErrorFall, guarantees, maximise
from sprig.methods.greedy.bounds import submodularity_ratio
from sprig.methods.greedy.pursuit import RefitObjective, backward, path

SIZE = 6


@pytest.fixture(params=["plain", "correlated"])
def problems(request, layer):
    return [
        layer(request.param, block=2, size=SIZE, seed=1).problem,
        layer(request.param, block=1, size=SIZE, seed=2, outputs=3).problem,
    ]


def test_exact_and_backward_are_the_paths_of_this_room(problems):
    objective = ErrorFall(RefitObjective(problems, SIZE))
    forward = path(problems, SIZE, steps=4)
    found = maximise(objective, 4)
    assert found.picks == forward.picks
    assert found.values == pytest.approx([forward.values[0] - v for v in forward.values], abs=1e-9)
    for k in (1, 3):
        taken = maximise(objective, k, rule="backward")
        assert set(taken.picks) == set(backward(problems, SIZE).picks[:k])


def test_rules_that_copy_and_rebuild_states_leave_them_sound(problems):
    objective = ErrorFall(RefitObjective(problems, SIZE))
    exact = maximise(objective, 3)
    values = {
        frozenset(s): 1 - fall(objective, s)
        for s in torch.combinations(torch.arange(SIZE), 3).tolist()
    }
    for rule, options in (("swap", {}), ("beam", {"width": 20}), ("distributed", {"parts": 1})):
        found = maximise(objective, 3, rule=rule, **options)
        assert found.value >= exact.value - 1e-9
        assert 1 - found.value == pytest.approx(values[frozenset(found.picks)], abs=1e-9)
    best = maximise(objective, 3, rule="beam", width=20)
    assert 1 - best.value == pytest.approx(min(values.values()), abs=1e-9)


def fall(objective, items) -> float:
    state = objective.start()
    for item in items:
        state = objective.add(state, item)
    return objective.value(state)


def test_both_ways_to_the_ratio_agree(problems):
    objective = ErrorFall(RefitObjective(problems, SIZE))
    found = maximise(objective, 3)
    told = guarantees(objective, found)
    mine = submodularity_ratio(problems, found.picks, size=SIZE)
    assert told.gamma.exact and mine.exact and told.gamma.pairs == mine.pairs
    assert told.gamma.value == pytest.approx(mine.value, abs=1e-6)
    assert told.factors[0].proved and not told.factors[0].vacuous
