"""The cut: what is kept, by share and by budget, and what it costs."""

import pytest
import torch
from torch import nn

from sprig.core.cost import cost
from sprig.core.errors import InputError
from sprig.core.tracing import trace
from sprig.core.types import Budget
from sprig.methods.penalties.cut import (
    apply_masks,
    keep_budget,
    keep_largest,
    keep_within,
    positions,
)
from sprig.methods.penalties.run import Cut, train_and_cut
from sprig.models.resnet_small import SmallResNet
from sprig.training import TrainConfig


def test_the_largest_stay_and_ties_at_the_threshold_go(generator):
    weights = {
        "a": torch.randn(30, 4, generator=generator),
        "b": torch.randn(50, generator=generator),
    }
    masks = keep_largest(weights, 0.3)
    every = torch.cat([w.abs().flatten() for w in weights.values()]).sort(descending=True).values
    for name, mask in masks.items():
        assert torch.equal(mask, weights[name].abs() >= every[50])
    layered = keep_largest(weights, 0.3, per_layer=True)
    assert [int(m.sum()) for m in layered.values()] == [36, 15]
    tied = keep_largest({"a": torch.tensor([2.0, 1.0, -1.0, 1.0])}, 0.5)
    assert tied["a"].tolist() == [True, False, False, False]
    zeros = keep_largest({"a": torch.tensor([0.0, 0.0, 3.0, 0.0])}, 1.0)
    assert zeros["a"].tolist() == [False, False, True, False]
    with pytest.raises(InputError, match=r"keep is 1\.5"):
        keep_largest(weights, 1.5)
    with pytest.raises(InputError, match="keep no weight at all"):
        keep_largest({"a": torch.ones(3)}, 0.1)


def test_prices_are_paid_from_the_largest_down():
    weights = {"a": torch.tensor([5.0, 1.0]), "b": torch.tensor([4.0, 3.0, 2.0])}
    masks = keep_within(weights, {"a": 10.0, "b": 1.0}, 12.0)
    assert masks["a"].tolist() == [True, False]
    assert masks["b"].tolist() == [True, True, False]


def test_multiply_adds_per_weight_are_those_of_the_graph():
    torch.manual_seed(0)
    model = SmallResNet(1, in_channels=1, width=4).eval()
    x = torch.randn(2, 1, 12, 12)
    used = positions(model, (x,), {})
    parameters = dict(model.named_parameters())
    total = sum(used[n] * parameters[n].numel() for n in used)
    assert round(total) == cost(trace(model, (x,)))["macs"]
    up = nn.Sequential(nn.ConvTranspose2d(2, 6, 2, stride=2, groups=2)).eval()
    assert positions(up, (torch.randn(3, 2, 5, 5),), {}) == {"0.weight": 25.0}


@pytest.mark.parametrize("unit", ["params", "macs"])
def test_budgets_of_masks_are_met_by_what_is_not_zero(unit):
    torch.manual_seed(0)
    model = SmallResNet(1, in_channels=1, width=4).eval()
    x = torch.randn(2, 1, 12, 12)
    parameters = dict(model.named_parameters())
    weights = {n: p.detach() for n, p in parameters.items() if p.ndim > 1 and n != "fc.weight"}
    masks = keep_budget(model, weights, Budget(**{unit: 0.4}), args=(x,))
    price = positions(model, (x,), {}) if unit == "macs" else dict.fromkeys(parameters, 1.0)
    apply_masks(model, masks)
    alive = {n: int(masks[n].sum()) if n in masks else p.numel() for n, p in parameters.items()}
    spent = sum(price.get(n, 0.0) * c for n, c in alive.items())
    dense = sum(price.get(n, 0.0) * p.numel() for n, p in parameters.items())
    most = max(price.values())
    assert 0.4 * dense - 2 * most <= spent <= 0.4 * dense
    with pytest.raises(InputError, match="below what is not penalised"):
        keep_budget(
            model, {"fc.weight": weights["conv1.weight"]}, Budget(**{unit: 0.01}), args=(x,)
        )
    with pytest.raises(InputError, match=r"one of params= or macs="):
        keep_budget(model, weights, Budget(bytes=0.5))


class Sentences(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.again, self.out = nn.GRU(8, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x):
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.out(self.again(x)[0][:, -1])


@pytest.mark.parametrize("per_layer", [False, True])
def test_budgets_of_masks_count_attention_and_recurrent_weights(per_layer):
    torch.manual_seed(0)
    places, model = 5, Sentences().eval()
    x = torch.randn(3, places, 8)
    found = train_and_cut(
        model,
        [(x, torch.arange(3))],
        method="l1",
        config=TrainConfig(epochs=1, lr=0.01),
        cut=Cut(budget=Budget(macs=0.5), per_layer=per_layer),
        example=(x,),
    )
    by_hand = {n: 1 if n == "out.weight" else places for n in found.masks}
    products = 2 * places * places * 8  # of attention, which no mask makes fewer
    dense = cost(trace(model, (x,)))["macs"]
    assert dense == products + sum(by_hand[n] * m.numel() for n, m in found.masks.items())
    spent = products + sum(by_hand[n] * int(m.sum()) for n, m in found.masks.items())
    assert (0.42 if per_layer else 0.49) * dense < spent <= 0.5 * dense
    shares = list(found.kept.values())
    assert (max(shares) - min(shares) < 0.1) == per_layer
    assert not any("no graph" in note for note in found.notes)


class Odd(nn.Module):
    """What no trace can follow."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, x):
        x = self.a(x)
        return self.b(torch.relu(x) if bool(x.sum() > 0) else torch.relu(2 * x))


def test_without_a_graph_multiply_adds_are_counted_on_layers_and_that_is_told(batches):
    found = train_and_cut(
        Odd(), batches, method="l1", config=TrainConfig(epochs=1, lr=0.01),
        cut=Cut(budget=Budget(macs=0.5)), example=(batches[0][0],),
    )  # fmt: skip
    assert sum(int(m.sum()) for m in found.masks.values()) == (96 + 48) // 2
    assert any("no graph of this model" in note for note in found.notes)
