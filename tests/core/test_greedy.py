"""The engine on objectives whose answer is known: a weighted cover and a table of set values."""

from itertools import combinations

import pytest
import torch
from torch import Tensor

from sprig.core.errors import DivergenceError, InputError
from sprig.core.greedy import best, exact, run, swap


class Cover:
    """Error = weight of the elements that no picked set holds."""

    diminishing = True

    def __init__(self, sets: list[set[int]], weights: dict[int, float]) -> None:
        self.sets, self.weights, self.size = sets, weights, len(sets)

    def start(self) -> frozenset[int]:
        return frozenset()

    def value(self, state: frozenset[int]) -> float:
        return sum(w for e, w in self.weights.items() if e not in state)

    def add(self, state: frozenset[int], pick: int) -> frozenset[int]:
        return state | self.sets[pick]

    def gains(self, state: frozenset[int], candidates: Tensor) -> Tensor:
        here = self.value(state)
        return torch.tensor([here - self.value(self.add(state, i)) for i in candidates.tolist()])


@pytest.fixture
def cover() -> Cover:
    sets = [{0, 1, 2, 3}, {0, 1, 4}, {2, 3, 5}, {4}, {6}, {6}]
    return Cover(sets, dict(enumerate([1.0, 1.0, 1.0, 1.0, 1.0, 1.5, 0.25])))


def test_exact_follows_the_hand_worked_path(cover):
    trail = run(cover)
    # {0,1,2,3}: 4; then {2,3,5}: 1.5; then 1 from {0,1,4} (equal to {4}: lowest number); then 0.25, twice 0
    assert trail.picks == (0, 2, 1, 4, 3, 5)
    assert trail.gains == pytest.approx((4, 1.5, 1, 0.25, 0, 0))
    assert trail.values == pytest.approx((6.75, 2.75, 1.25, 0.25, 0, 0, 0))


def test_steps_and_start(cover):
    assert run(cover, 2).picks == (0, 2)
    assert run(cover, 0).values == (6.75,)
    trail = run(cover, 3, start=[5])
    assert trail.picks == (5, 0, 2) and trail.values[1] == 6.5


def test_ties_go_to_the_lowest_number():
    assert best(torch.tensor([1.0, 3.0, 3.0]), torch.tensor([9, 4, 2])) == (4, 3.0)
    assert best(torch.full((2,), -torch.inf), torch.arange(2)) == (None, 0.0)
    assert best(torch.tensor([]), torch.tensor([])) == (None, 0.0)


def test_items_that_cannot_be_added_end_the_trail(cover):
    class Barred(Cover):
        def gains(self, state, candidates):
            return super().gains(state, candidates).masked_fill(candidates > 2, -torch.inf)

    assert set(run(Barred(cover.sets, cover.weights)).picks) == {0, 1, 2}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_gains_and_values_must_be_numbers(cover, bad):
    class Broken(Cover):
        def gains(self, state, candidates):
            return super().gains(state, candidates).masked_fill(candidates == 3, bad)

    class Blown(Cover):
        def value(self, state):
            return bad if len(state) > 3 else super().value(state)

        def gains(self, state, candidates):
            return candidates.flip(0).double()

    with pytest.raises(DivergenceError, match="gain of item 3"):
        run(Broken(cover.sets, cover.weights))
    with pytest.raises(DivergenceError, match=r"after picking \[0\]"):
        exact(Blown(cover.sets, cover.weights), 3)


def test_what_cannot_be_asked_is_refused(cover):
    with pytest.raises(InputError, match="unknown rule 'lucky'; known: exact"):
        run(cover, rule="lucky")
    with pytest.raises(InputError, match="7 picks asked of 6"):
        run(cover, 7)
    with pytest.raises(InputError, match="more than the 1 asked"):
        run(cover, 1, start=[0, 1])
    for start in ([0, 0], [6], [-1]):
        with pytest.raises(InputError, match="distinct items"):
            run(cover, 3, start=start)


def test_swap_climbs_until_one_exchange_no_longer_helps(cover):
    better = swap(cover, [3, 4])
    assert better.picks == (0, 2) and better.values[-1] == 1.25
    # dropping 2 costs least, and among the pairs with 0 none is better; {1, 2} is two exchanges away
    assert min(cover.value(cover.sets[0] | s) for s in cover.sets[1:]) == 1.25
    pairs = combinations(cover.sets, 2)
    assert min(cover.value(a | b) for a, b in pairs) == 0.25
    assert set(swap(cover, [1, 4]).picks) == {1, 2}
    assert swap(cover, [3, 4], rounds=1).picks == (3, 0)  # 4 was the cheapest
    assert swap(cover, [3, 4], rounds=0).picks == (3, 4)
    assert swap(cover, range(6)).picks == tuple(range(6))  # nothing left to add

    class Barred(Cover):
        def gains(self, state, candidates):
            return super().gains(state, candidates).masked_fill(candidates > 2, -torch.inf)

    assert swap(Barred(cover.sets, cover.weights), [0, 1, 2]).picks == (0, 1, 2)


def test_a_walk_among_some_items_with_a_look_of_its_own(cover):
    assert exact(cover, 6, among=torch.tensor([1, 3, 5])).picks == (1, 5, 3)
    assert exact(cover, 2, among=torch.tensor([], dtype=torch.int64)).picks == ()
    seen = []

    def last_two(left: Tensor) -> Tensor:
        seen.append(left.tolist())
        return left[-2:]

    assert exact(cover, 3, look=last_two).picks == (4, 3, 2)
    assert seen == [[0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 5], [0, 1, 2, 5]]


def test_slack_makes_what_rounding_parted_equal_again():
    gains, numbers = torch.tensor([1.0, 3.0 - 1e-6, 3.0, -torch.inf]), torch.tensor([2, 4, 6, 8])
    assert best(gains, numbers) == (6, 3.0)
    assert best(gains, numbers, slack=1e-5) == (4, pytest.approx(3.0, abs=1e-5))
    assert best(gains[3:], numbers[3:], slack=1e-5) == (None, 0.0)
