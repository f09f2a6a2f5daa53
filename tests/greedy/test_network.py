"""The network with greedy picks: hard ones are `maximise`'s, gradients reach every weight, it learns, it is saved."""

import pytest
import torch
from torch import nn

from sprig.core.errors import InputError, StoreError
from sprig.core.weights import write_tensors
from sprig.greedy import (
    CURVES,
    GreedyNetwork,
    gold_loss,
    maximise,
    membership_loss,
    padded,
    reward_loss,
)

CURVE_NAMES = list(CURVES)


def network(curve: str = "sqrt", *, seed: int = 0, inputs: int = 6, concepts: int = 8, **kwargs):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = nn.Sequential(nn.Linear(inputs, 16), nn.Tanh(), nn.Linear(16, concepts))
    return GreedyNetwork(encoder, concepts, curve=curve, **kwargs)


def items(seed: int = 0, sizes=(5, 8, 3)):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(n, 6, generator=g) for n in sizes]


@pytest.mark.parametrize("curve", CURVE_NAMES)
def test_evaluation_is_maximise_and_cold_training_too(curve):
    net = network(curve).double()
    x, mask = padded([e.double() for e in items()])
    budgets = [2, 4, 1]
    net(x, budgets=1, mask=mask)  # settles the scales
    hard = net.eval()(x, budgets=budgets, mask=mask)
    objectives = net.objectives(x, mask=mask)
    assert [f.size for f in objectives] == [5, 8, 3]
    for i, f in enumerate(objectives):
        found = maximise(f, budgets[i])
        assert hard.picks[i, : budgets[i]].tolist() == list(found.picks)
        assert float(hard.worth[i]) == pytest.approx(found.value)
    net.temperature = 1e-7
    soft = net.train()(x, budgets=budgets, mask=mask)
    torch.testing.assert_close(soft.chosen.detach(), hard.chosen, atol=1e-4, rtol=0)
    assert soft.steps.requires_grad and not hard.steps.requires_grad


def test_examples_in_a_batch_are_examples_alone():
    net = network().eval()
    lists = items()
    x, mask = padded(lists)
    whole = net(x, budgets=[3, 2, 3], mask=mask)
    for i, (one, k) in enumerate(zip(lists, (3, 2, 3))):
        assert net(one[None], budgets=k).picks[0].tolist() == whole.picks[i, :k].tolist()


@pytest.mark.parametrize("curve", CURVE_NAMES)
def test_every_weight_has_the_gradient_of_finite_differences(curve):
    net = network(curve, temperature=0.5).double()
    x, mask = padded([e.double() for e in items(1)])
    gold = mask & (torch.arange(8) % 2 == 0)
    net(x, budgets=2, mask=mask)  # settles the spread
    membership_loss(net(x, budgets=[2, 3, 1], mask=mask), gold, mask).backward()
    probe = torch.Generator().manual_seed(0)
    for name, parameter in net.named_parameters():
        direction = torch.randn(parameter.shape, generator=probe, dtype=torch.float64)
        ends = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                parameter += step * direction
                walk = net(x, budgets=[2, 3, 1], mask=mask)
                ends.append(float(membership_loss(walk, gold, mask)))
                parameter -= step * direction
        slope = (ends[0] - ends[1]) / 2e-5
        assert float((parameter.grad * direction).sum()) == pytest.approx(slope, rel=1e-4, abs=1e-8)
        assert float(parameter.grad.abs().max()) > 0, name


def aspects(count: int, seed: int):
    """Four aspects, two items of each; one gold item of every aspect, a pair of aspects asked for."""
    g = torch.Generator().manual_seed(seed)
    asked = torch.stack([torch.randperm(4, generator=g)[:2] for _ in range(count)])
    kind = torch.arange(8) // 2
    about = nn.functional.one_hot(kind, 4).float().expand(count, 8, 4)
    claim = nn.functional.one_hot(asked, 4).sum(1).float()
    strength = torch.rand(count, 8, 1, generator=g) * 0.5 + 0.75
    x = torch.cat([about * strength, about * claim[:, None]], -1)
    serves = (kind[None, :, None] == asked[:, None, :]).float()
    return x, serves


@pytest.mark.parametrize("mode", ["soft", "sampled"])
def test_it_learns_to_cover_what_is_asked_for(mode):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = nn.Linear(8, 4)
    net = GreedyNetwork(encoder, 4, mode=mode, temperature=0.5)
    x, serves = aspects(64, 0)
    new, wanted = aspects(64, 1)

    def covered(walk, of):
        return (walk.chosen[..., None] * of.repeat(walk.draws, 1, 1)).amax(1).mean(-1)

    before = float(covered(net.eval()(new, budgets=2), wanted).mean())
    net.train()
    optimiser = torch.optim.Adam(net.parameters(), lr=0.1)
    g = torch.Generator().manual_seed(2)
    for _ in range(120):
        if mode == "soft":
            loss = gold_loss(net(x, budgets=2), serves)
        else:
            walk = net(x, budgets=2, draws=4, generator=g)
            loss = reward_loss(walk, covered(walk, serves))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    after = float(covered(net.eval()(new, budgets=2), wanted).mean())
    assert before < 0.75
    assert after > 0.95


def test_the_first_training_batch_sets_scales_once():
    net = network()
    x, mask = padded(items(2))
    net.eval()(x, budgets=1, mask=mask)
    net.objectives(x, mask=mask)
    assert not bool(net.settled)
    net.train()(x, budgets=1, mask=mask)
    assert bool(net.settled)
    raw = net.encoder(x).detach()
    z = (raw - raw[mask].mean(0)) / raw[mask].std(0, correction=0)
    m = net.measure(x).detach()
    torch.testing.assert_close(m, nn.functional.softplus(3 * z - 3), atol=1e-5, rtol=1e-4)
    alone = ((m + 1e-6).sqrt() - 1e-3).sum(-1)
    want = torch.stack([row[real].std() for row, real in zip(alone, mask)]).mean()
    assert float(net.spread) == pytest.approx(float(want), rel=1e-4)
    kept = {name: buffer.clone() for name, buffer in net.named_buffers()}
    net(10 * x, budgets=1, mask=mask)
    assert all(torch.equal(buffer, kept[name]) for name, buffer in net.named_buffers())
    # the first step is the softmax of the scores over the temperature
    net.temperature = 0.3
    first = net(x, budgets=1, mask=mask).steps[:, 0]
    logits = net.scores(x).masked_fill(~mask, -torch.inf) / 0.3
    torch.testing.assert_close(first, logits.softmax(-1), atol=1e-6, rtol=1e-5)
    flat = network()
    flat.scores(torch.ones(2, 4, 6), mask=torch.ones(2, 4, dtype=torch.bool))
    assert float(flat.spread) == 1.0 and bool(flat.settled) and bool((flat.stretch == 1).all())
    single = network()
    single(torch.ones(2, 1, 6), budgets=1)
    assert float(single.spread) == 1.0


def test_what_is_saved_comes_back_and_nothing_else_does(tmp_path):
    net = network("log")
    x, mask = padded(items(3))
    net(x, budgets=2, mask=mask)
    net.save(tmp_path / "net.safetensors")
    again = network("log", seed=1).load(tmp_path / "net.safetensors")
    assert bool(again.settled) and torch.equal(again.spread, net.spread)
    a, b = net.eval()(x, budgets=3, mask=mask), again.eval()(x, budgets=3, mask=mask)
    assert torch.equal(a.picks, b.picks) and torch.equal(a.worth, b.worth)
    with pytest.raises(StoreError, match="curve is 'log', this network has 'sqrt'"):
        network("sqrt").load(tmp_path / "net.safetensors")
    with pytest.raises(StoreError, match="concepts is 8, this network has 9"):
        network("log", concepts=9).load(tmp_path / "net.safetensors")
    with pytest.raises(StoreError, match=r"encoder\.0\.weight has shape"):
        network("log", inputs=7).load(tmp_path / "net.safetensors")
    write_tensors(tmp_path / "other.safetensors", {"a": torch.ones(2)})
    with pytest.raises(StoreError, match="kind is None"):
        network("log").load(tmp_path / "other.safetensors")
    torch.save(net.state_dict(), tmp_path / "net.pt")
    with pytest.raises(StoreError, match="pickle"):
        network("log").load(tmp_path / "net.pt")


def test_wrong_networks_are_refused():
    encoder = nn.Linear(6, 4)
    for text, call in {
        "unknown curve": lambda: GreedyNetwork(encoder, 4, curve="cube"),
        "training is 'soft' or 'sampled', found 'hard'": lambda: GreedyNetwork(
            encoder, 4, mode="hard"
        ),
        "at least one concept": lambda: GreedyNetwork(encoder, 0),
        "temperature above 0": lambda: GreedyNetwork(encoder, 4, temperature=0.0),
        "gives \\(examples, items, 5\\), found \\(2, 3, 4\\)": lambda: GreedyNetwork(encoder, 5)(
            torch.ones(2, 3, 6), budgets=1
        ),
        "found tuple": lambda: GreedyNetwork(nn.LSTM(6, 4), 4)(torch.ones(2, 3, 6), budgets=1),
        "sampling needs a generator": lambda: GreedyNetwork(encoder, 4, mode="sampled")(
            torch.ones(2, 3, 6), budgets=1
        ),
        "at least one example": lambda: padded([]),
        "items of one batch have one shape": lambda: padded([torch.ones(2, 3), torch.ones(2, 4)]),
        "one shape, found \\[\\(\\)\\]": lambda: padded([torch.ones(())]),
    }.items():
        with pytest.raises(InputError, match=text):
            call()
