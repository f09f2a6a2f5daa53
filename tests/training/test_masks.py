"""Zeros of a plan stay zeros in our own loop, and without the hook they do not."""

import pytest
import torch
from torch import Tensor, nn

import sprig
from sprig.training import FinetuneConfig
from sprig.training.masks import HeldMasks, HeldZeros, own


def net() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.Sigmoid(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip
    nn.init.constant_(model[1].bias, 0.3)  # a removed channel is not silent behind the norm
    return model.eval()


def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(8, 1, 6, 6, generator=generator), torch.arange(8) % 3) for _ in range(3)]


def planned(model: nn.Module) -> tuple[sprig.Plan, sprig.Graph]:
    graph = sprig.trace(model, (torch.randn(2, 1, 6, 6),))
    return sprig.Plan({"0": (0, 3), "3": (1, 2, 7)}, {"0": 6, "3": 8}, graph.fingerprint), graph


def zeros(model: nn.Module) -> list[list[bool]]:
    """Which rows of the producers and columns of the consumers are all zeros."""
    a, b, c = model[0].weight, model[3].weight, model[7].weight  # type: ignore[index]
    lines = [a.flatten(1), b.movedim(1, 0).flatten(1), b.flatten(1), c.mT]
    return [(~line.bool().any(1)).tolist() for line in lines]


def test_a_masked_network_trains_and_stays_masked() -> None:
    model, x = net(), batches()[0][0]
    plan, graph = planned(model)
    wanted = [[i not in plan.keep[g] for i in range(n)] for g, n in (("0", 6), ("3", 8))]
    masked = sprig.mask(model, plan, graph)
    settings = FinetuneConfig(epochs=2, lr=0.05)
    loose = sprig.finetune(masked, batches(), config=settings).model
    assert not any(any(line) for line in zeros(loose)[1:4:2])  # or the test could not fail
    held = sprig.finetune(
        masked, batches(), config=settings, hooks=[HeldMasks(plan, graph)]
    ).model.eval()
    assert zeros(held) == [wanted[0], wanted[0], wanted[1], wanted[1]]
    moved = (held[0].weight - masked[0].weight).abs().sum((1, 2, 3))  # type: ignore[index]
    assert moved[[0, 3]].min() > 0
    small = sprig.shrink(held, plan, graph).eval()
    with torch.no_grad():
        torch.testing.assert_close(small(x), held(x))
    assert small[0].out_channels == 2


def test_a_dense_network_is_masked_first() -> None:
    model = net()
    plan, graph = planned(model)
    outcome = sprig.Outcome(plan, {})
    HeldMasks(outcome, graph).begin(model)
    assert sum(zeros(model)[0]) == 4


def test_another_network_or_plan_is_refused() -> None:
    model = net()
    plan, graph = planned(model)
    small = sprig.shrink(model, plan, graph)
    with pytest.raises(sprig.PlanError, match="use the model that was traced, not a shrunk one"):
        HeldMasks(plan, graph).begin(small)
    with pytest.raises(sprig.PlanError, match="belongs to another model"):
        HeldMasks(plan, sprig.trace(small, (torch.randn(2, 1, 6, 6),)))


def test_wrappers_are_looked_through() -> None:
    model = net()
    assert own(nn.DataParallel(model)) is model
    assert own(torch.compile(model, backend="eager")) is model
    assert own(model) is model


def test_masks_of_another_model_are_refused() -> None:
    model = net()
    for masks, found in (
        ({"0.weight": torch.ones(6, 1, 3, 2, dtype=torch.bool)}, r"the model has \(6, 1, 3, 3\)"),
        ({"9.weight": torch.ones(2, dtype=torch.bool)}, "the model has no such parameter"),
    ):
        with pytest.raises(sprig.PlanError, match=found):
            HeldZeros(masks).begin(model)
