"""Unfolded steps: their limit is `maximise`, their gradients are finite differences, their draws are what they say."""

from itertools import permutations

import pytest
import torch

from sprig.core.errors import InputError
from sprig.greedy import (
    CURVES,
    FeatureCoverage,
    Walk,
    gold_loss,
    maximise,
    membership_loss,
    reward_loss,
    unfold,
)
from sprig.greedy.unfolded import share_out

D = torch.float64


def batch(seed: int = 0, sizes=(7, 4, 9), concepts: int = 5):
    """Features with junk behind each example's end, its mask, weights of each example."""
    g = torch.Generator().manual_seed(seed)
    m = torch.rand(len(sizes), max(sizes), concepts, generator=g, dtype=D)
    mask = torch.arange(max(sizes)) < torch.tensor(sizes)[:, None]
    m = torch.where(mask[..., None], m, 77.0)
    return m, mask, torch.rand(len(sizes), concepts, generator=g, dtype=D) + 0.1


def discrete(m, mask, w, curve):
    return [FeatureCoverage(a[r], b, curve=curve) for a, r, b in zip(m, mask, w)]


@pytest.mark.parametrize("curve", CURVES)
def test_cold_steps_are_the_picks_of_maximise(curve):
    budgets = [3, 4, 0]
    for seed in range(4):
        m, mask, w = batch(seed)
        cold = unfold(m, budgets, weights=w, mask=mask, curve=curve, temperature=1e-6)
        hard = unfold(m, budgets, weights=w, mask=mask, curve=curve, mode="hard")
        for i, f in enumerate(discrete(m, mask, w, curve)):
            found = maximise(f, budgets[i])
            order = list(found.picks)
            assert hard.picks[i].tolist() == order + [-1] * (4 - len(order))
            assert hard.chosen[i].nonzero().flatten().tolist() == sorted(order)
            assert float(hard.worth[i]) == pytest.approx(found.value, abs=1e-12)
            assert cold.steps[i].argmax(-1)[: len(order)].tolist() == order
            torch.testing.assert_close(cold.chosen[i], hard.chosen[i], atol=1e-6, rtol=0)
            assert float(cold.worth[i]) == pytest.approx(found.value, abs=1e-5)


def test_the_limit_holds_where_the_plain_recipe_has_none():
    """softmax(gain/tau + log(1 - s)), s + p: whatever tau, the second step picks the first item again by half."""
    m = torch.tensor([[[1.0], [0.9], [0.1]]], dtype=D)
    for tau in (0.01, 0.005):
        s = torch.zeros(3, dtype=D)
        for _ in range(2):
            s = s + (m[0, :, 0] / tau + torch.log1p(-s)).softmax(-1)
        torch.testing.assert_close(s, torch.tensor([1.5, 0.5, 0], dtype=D), atol=1e-3, rtol=0)
        ours = unfold(m, 2, curve="linear", temperature=tau).chosen[0]
        torch.testing.assert_close(ours, torch.tensor([1.0, 1, 0], dtype=D), atol=1e-3, rtol=0)


def test_a_step_takes_no_more_of_an_item_than_is_left():
    """The threshold by bisection; items used up or half used up, temperatures from warm to cold."""
    g = torch.Generator().manual_seed(3)
    for tau in (3.0, 0.3, 0.03, 0.001):
        for _ in range(20):
            gains = torch.rand(6, generator=g, dtype=D) / tau
            left = torch.rand(6, generator=g, dtype=D).mul(2).clamp_max(1)
            left[0] = 0.0
            left[1:3] = 1.0
            low, high = -10.0 / tau, 10.0 / tau
            for _ in range(200):
                theta = (low + high) / 2
                total = float((left * (gains - theta).clamp_max(0).exp()).sum())
                low, high = (theta, high) if total > 1 else (low, theta)
            want = left * (gains - high).clamp_max(0).exp()
            torch.testing.assert_close(share_out(gains, left), want, atol=1e-6, rtol=1e-6)
    gone = torch.tensor([9e8, 5e8, 4e8, 1e8], dtype=D), torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=D)
    assert share_out(*gone).tolist() == [0, 0, 1, 0]
    exactly = torch.tensor([0.3, 0.2, 0.0, 0.5], dtype=D)  # all of it has to go
    torch.testing.assert_close(share_out(torch.rand(4, generator=g, dtype=D), exactly), exactly)


def test_two_halves_of_a_pick_leave_the_gain_of_a_whole_one():
    """Twins share the first step; their second still stands for all that it would bring."""
    m = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 0.1]]], dtype=D)
    walk = unfold(m, 2, temperature=0.02)
    assert maximise(FeatureCoverage(m[0]), 2).picks == (0, 1)
    torch.testing.assert_close(
        walk.steps[0], torch.tensor([[0.5, 0.5, 0], [0.5, 0.5, 0]], dtype=D), atol=0.01, rtol=0
    )


def test_equal_gains_go_to_the_lowest_number():
    m = torch.tensor([[[0.2, 0.0], [0.0, 0.7], [0.7, 0.0], [0.0, 0.7]]])
    assert unfold(m, 4, mode="hard").picks.tolist() == [[1, 2, 3, 0]]
    assert maximise(FeatureCoverage(m[0]), 4).picks == (1, 2, 3, 0)
    sixth = torch.full((1, 3, 3), 1 / 6) @ torch.rand(
        3, 3, generator=torch.Generator().manual_seed(0)
    )
    for curve in CURVES:
        assert unfold(sixth, 3, mode="hard", curve=curve).picks.tolist() == [[0, 1, 2]]


def test_shares_stay_shares_and_steps_share_out_one_pick():
    m, mask, w = batch(5)
    budgets = torch.tensor([2, 4, 6])
    walk = unfold(m, budgets, weights=w, mask=mask, temperature=3.0)
    assert walk.steps.shape == walk.held.shape == (3, 6, 9)
    active = torch.arange(6) < budgets[:, None]
    torch.testing.assert_close(walk.steps.sum(-1), active.to(D))
    assert bool((walk.steps[~mask[:, None].expand(3, 6, 9)] == 0).all())
    assert 0 <= float(walk.chosen.min()) <= float(walk.chosen.max()) <= 1
    torch.testing.assert_close(walk.chosen, walk.steps.sum(1))
    torch.testing.assert_close(walk.chosen.sum(1), budgets.to(D))
    torch.testing.assert_close(walk.held[:, 1], walk.steps[:, 0])
    assert walk.picks is None and walk.likelihood is None


@pytest.mark.parametrize("mode", ["soft", "hard"])
def test_an_example_in_a_batch_is_the_example_alone(mode):
    m, mask, w = batch(6)
    budgets = [2, 3, 5]
    whole = unfold(m, budgets, weights=w, mask=mask, mode=mode, curve="log")
    for i, k in enumerate(budgets):
        one = unfold(m[i : i + 1, mask[i]], k, weights=w[i], mode=mode, curve="log")
        torch.testing.assert_close(whole.steps[i, :k, mask[i]], one.steps[0])
        torch.testing.assert_close(whole.chosen[i, mask[i]], one.chosen[0])
        torch.testing.assert_close(whole.worth[i : i + 1], one.worth)


@pytest.mark.parametrize("curve", CURVES)
def test_gradients_are_finite_differences(curve):
    m, mask, w = batch(7, sizes=(4, 3), concepts=3)
    m = torch.where(mask[..., None], m, 0.5)
    inputs = (m.requires_grad_(), w.requires_grad_())

    def run(m, w):
        walk = unfold(m, [3, 2], weights=w, mask=mask, curve=curve, temperature=0.2, scale=0.7)
        return walk.steps, walk.chosen, walk.worth

    assert torch.autograd.gradcheck(run, inputs)

    def drawn(m, w):
        g = torch.Generator().manual_seed(1)
        walk = unfold(
            m, [3, 2], weights=w, mask=mask, curve=curve, mode="sampled", draws=2, generator=g
        )
        return walk.likelihood, walk.steps

    assert torch.autograd.gradcheck(drawn, inputs)


def test_gradients_stay_finite_where_shares_are_full():
    """Full shares, empty features, no items left: where logarithms and roots have infinite slopes."""
    for curve in CURVES:
        m = torch.zeros(2, 3, 2).index_fill(1, torch.tensor([1]), 1.0).requires_grad_()
        walk = unfold(m, [3, 1], curve=curve, temperature=1e-4)
        (walk.chosen.sum() + walk.worth.sum() + gold_loss(walk, torch.ones(2, 3))).backward()
        assert bool(m.grad.isfinite().all()), curve


def test_padding_and_spent_budgets_get_no_gradient():
    m, mask, w = batch(8)
    m.requires_grad_()
    walk = unfold(m, [2, 0, 3], weights=w, mask=mask)
    (walk.steps.square().sum() + walk.worth.sum()).backward()
    assert bool((m.grad[~mask] == 0).all()) and bool((m.grad[1] == 0).all())
    assert float(m.grad[0, mask[0]].abs().min()) > 0


def sequence_chances(m, tau, k):
    """Chance of every ordered pick of k items, one softmax after another, and the set's worth; roots, no weights."""
    f = FeatureCoverage(m.detach())
    out = {}
    for order in permutations(range(len(m)), k):
        chance, c, left = (
            torch.ones((), dtype=D),
            torch.zeros(m.shape[1], dtype=D),
            list(range(len(m))),
        )
        for item in order:
            gains = torch.stack(
                [((c + m[i] + 1e-6).sqrt() - (c + 1e-6).sqrt()).sum() for i in left]
            )
            chance = chance * (gains / tau).softmax(0)[left.index(item)]
            c = c + m[item]
            left.remove(item)
        out[order] = (chance, f.value(f.of(order)))
    return out


def test_draws_have_the_chances_they_report():
    m = batch(9)[0][0, :4]
    known = sequence_chances(m, 0.3, 2)
    assert float(sum(p for p, _ in known.values())) == pytest.approx(1)
    g = torch.Generator().manual_seed(0)
    walk = unfold(m[None], 2, temperature=0.3, mode="sampled", draws=4000, generator=g)
    assert walk.draws == 4000 and walk.picks.shape == (4000, 2)
    seen = [tuple(order) for order in walk.picks.tolist()]
    for at in range(0, 4000, 97):
        assert float(walk.likelihood[at].exp()) == pytest.approx(float(known[seen[at]][0]))
        assert float(walk.worth[at]) == pytest.approx(known[seen[at]][1])
    for order, (chance, _) in known.items():
        p = float(chance)
        assert abs(seen.count(order) / 4000 - p) < 4.5 * (p * (1 - p) / 4000) ** 0.5
    again = unfold(
        m[None],
        2,
        temperature=0.3,
        mode="sampled",
        draws=4000,
        generator=torch.Generator().manual_seed(0),
    )
    assert torch.equal(again.picks, walk.picks)


def test_drawn_sets_keep_the_promise_of_smoothed_greedy():
    for seed in range(3):
        m = batch(seed)[0][0, :5]
        f = FeatureCoverage(m)
        for epsilon in (0.01, 0.05, 0.2):
            known = sequence_chances(m, epsilon, 2)
            mean = float(sum(p * v for p, v in known.values()))
            best = max(v for _, v in known.values())
            floor = (1 - 1 / torch.e) * (best - 2 * epsilon * torch.log(torch.tensor(5.0)).item())
            assert mean >= floor
        assert float(sum(p * v for p, v in sequence_chances(m, 1e-4, 2).values())) == pytest.approx(
            maximise(f, 2).value
        )


def test_the_reward_gradient_is_unbiased():
    """Summed over every pair of draws with its chance, the estimate is the gradient of the mean reward."""
    m = batch(10)[0][0, :4].clone().requires_grad_()
    rewards = {order: float(i % 5) for i, order in enumerate(permutations(range(4), 2))}
    known = {order: p for order, (p, _) in sequence_chances(m, 0.5, 2).items()}
    (truth,) = torch.autograd.grad(
        -sum(p * rewards[o] for o, p in known.items()), m, retain_graph=True
    )
    total = torch.zeros_like(m)
    zeros = torch.zeros(2, 2, 4, dtype=D)
    for a in known:
        for b in known:
            logs = torch.stack([known[a].log(), known[b].log()])
            walk = Walk(zeros, zeros, zeros[:, 0], logs, torch.tensor([2, 2]), None, logs, 2)
            loss = reward_loss(walk, torch.tensor([rewards[a], rewards[b]]))
            (g,) = torch.autograd.grad(loss, m, retain_graph=True)
            total += (known[a] * known[b]).detach() * g
    torch.testing.assert_close(total, truth)
    assert float(truth.abs().max()) > 0.01


def test_gold_still_wanted_is_what_the_loss_counts():
    m, _, w = batch(11, sizes=(4, 4), concepts=3)
    walk = unfold(m, [3, 2], weights=w)
    gold = torch.tensor([[1, 0, 1, 0], [0, 1, 0, 0]])
    want = 0.0
    for step in (0, 1):
        p, s = walk.steps[0, step], walk.held[0, step]
        want -= torch.log(p[0] * (1 - s[0]) + p[2] * (1 - s[2]))
    want = (want - torch.log(walk.steps[1, 0, 1])) / 3
    torch.testing.assert_close(gold_loss(walk, gold), want)
    # one aspect each is the same as plain gold; a shared aspect is wanted once
    each = torch.stack([gold * (torch.arange(4) == i) for i in range(4)], -1)
    torch.testing.assert_close(gold_loss(walk, each), want)
    shared = gold[..., None]
    first = -(torch.log(walk.steps[0, 0, [0, 2]].sum()) + torch.log(walk.steps[1, 0, 1])) / 2
    torch.testing.assert_close(gold_loss(walk, shared), first)
    both = torch.tensor([[[1, 0], [0, 0], [1, 1], [0, 0]], [[0, 0], [1, 0], [0, 0], [0, 0]]])
    p, s = walk.steps[0, 1], walk.held[0, 1]
    open_1, open_2 = (1 - s[0]) * (1 - s[2]), 1 - s[2]
    second = torch.log(p[0] * open_1 + p[2] * (1 - (1 - open_1) * (1 - open_2)))
    torch.testing.assert_close(gold_loss(walk, both), (first * 2 - second) / 3)


def test_membership_counts_real_items_only():
    m, mask, w = batch(12)
    walk = unfold(m, 2, weights=w, mask=mask)
    gold = (torch.arange(9) < 2).expand(3, 9)
    terms = [
        -(s.log() if y else (1 - s).log())
        for row, real, target in zip(walk.chosen, mask, gold)
        for s, r, y in zip(row, real, target)
        if r
    ]
    torch.testing.assert_close(membership_loss(walk, gold, mask), torch.stack(terms).mean())
    whole = unfold(m[:1, :7], 2)
    assert float(membership_loss(whole, gold[:1, :7])) > 0


def test_wrong_walks_are_refused():
    m, mask, w = batch()
    g = torch.Generator().manual_seed(0)
    for text, call in {
        "features are real numbers of shape": lambda: unfold(m[0], 1),
        "found \\(3, 9, 5\\) torch.int64": lambda: unfold(m.long(), 1),
        "a mask is True for items": lambda: unfold(m, 1, mask=mask.int()),
        "budgets are whole numbers": lambda: unfold(m, 1.0),
        "3 examples need one budget or as many": lambda: unfold(m, [1, 2]),
        "5 picks asked of the 4 items of row 1": lambda: unfold(m, [1, 5, 1], mask=mask),
        "-1 picks asked of the 9 items of row 0": lambda: unfold(m, -1),
        "finite numbers of at least 0": lambda: unfold(-m, 1),
        "the curve 'or' is for features of at most 1, found 77": lambda: unfold(m, 1, curve="or"),
        "unknown curve": lambda: unfold(m, 1, curve="cube"),
        "weights have shape": lambda: unfold(m, 1, weights=w[:2]),
        "weights are finite": lambda: unfold(m, 1, weights=-w),
        "unknown mode 'warm'; known: soft, sampled, hard": lambda: unfold(m, 1, mode="warm"),
        "temperature and scale are above 0": lambda: unfold(m, 1, temperature=0.0),
        "scale are above 0, found 1.0 and -1": lambda: unfold(m, 1, scale=-1.0),
        "are for mode='sampled', found mode='soft'": lambda: unfold(m, 1, draws=2),
        "for mode='sampled', found mode='hard'": lambda: unfold(m, 1, mode="hard", generator=g),
        "sampling needs a generator": lambda: unfold(m, 1, mode="sampled"),
        "at least one draw, found .* 0": lambda: unfold(m, 1, mode="sampled", draws=0, generator=g),
    }.items():
        with pytest.raises(InputError, match=text):
            call()


def test_wrong_targets_are_refused():
    m = batch()[0]
    walk = unfold(m, 2)
    drawn = unfold(m, 2, mode="sampled", generator=torch.Generator().manual_seed(0))
    gold = torch.ones(3, 9)
    for text, call in {
        "gold is \\(examples, items\\)": lambda: gold_loss(walk, gold[:2]),
        "example 1 has no gold item": lambda: gold_loss(walk, gold * torch.tensor([[1], [0], [1]])),
        "no example has a budget": lambda: gold_loss(unfold(m, 0), gold),
        "membership is": lambda: membership_loss(walk, gold[..., None]),
        "needs a walk of mode='sampled'": lambda: reward_loss(walk, gold[:, 0]),
        "a reward for each of 3 walks": lambda: reward_loss(drawn, gold),
        "at least two draws": lambda: reward_loss(drawn, gold[:, 0]),
    }.items():
        with pytest.raises(InputError, match=text):
            call()
