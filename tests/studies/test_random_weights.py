"""Masks of random weights: counts, the straight-through gradient, storage; the quick study and its verdict."""

import copy
import math

import pytest
import torch

from sprig.core.errors import InputError
from sprig.studies import edges
from sprig.studies.random_neurons import digits
from sprig.studies.random_weights import STUDY


def test_masks_keep_the_share_that_is_asked(generator: torch.Generator) -> None:
    scores = torch.randn(20, 30, generator=generator)
    for keep in (0.001, 0.1, 0.5, 1.0):
        mask = edges.top(scores, keep)
        assert int(mask.sum()) == max(1, round(keep * 600))
        left = scores[mask == 0].abs()
        assert not len(left) or float(left.max()) <= float(scores[mask == 1].abs().min())
    for keep in (0.0, 1.5):
        with pytest.raises(InputError, match="keep is the share that stays"):
            edges.top(scores, keep)
    counts = [int(m.sum()) for m in edges.random_masks([scores], 0.25, generator)]
    assert counts == [150]


def test_scaling_makes_up_for_what_the_mask_takes(generator: torch.Generator) -> None:
    for kind in ("constant", "normal"):
        (w,) = edges.draw((400, 300), kind, generator, keep=0.25)
        assert float(w.square().mean()) == pytest.approx(2 / (0.25 * 400), rel=0.02)
    (signed,) = edges.draw((50, 40), "constant", generator)
    assert set(signed.abs().flatten().tolist()) == {float(torch.tensor(math.sqrt(2 / 50)))}


def test_one_step_of_edge_popup_by_hand(generator: torch.Generator) -> None:
    """The gradient of a score is that of the effective weight times w times the score's sign, masked or not."""
    (w,) = edges.draw((6, 1), "normal", generator)
    x, y = torch.randn(16, 6, generator=generator), torch.randn(16, generator=generator)
    twin = torch.Generator()
    twin.set_state(generator.get_state())
    scores = (2 * torch.rand(w.shape, generator=twin) - 1) / math.sqrt(6)
    effective = (w * edges.top(scores, 0.5)).requires_grad_()
    torch.randperm(16, generator=twin)
    edges.squared(edges.forward([effective], x), y).backward()
    assert effective.grad is not None
    stepped = scores - 0.3 * (effective.grad * w * scores.sign() + 1e-4 * scores)
    masks = edges.popup(
        [w], 0.5, edges.Task(x, y, edges.squared, 0.3, edges.Training(1, batch=16), generator)
    )
    assert torch.equal(masks[0], edges.top(stepped, 0.5))


def test_training_leaves_masked_weights_at_zero(generator: torch.Generator) -> None:
    weights = edges.draw((5, 8, 3), "normal", generator)
    masks = edges.random_masks(weights, 0.5, generator)
    x, y = torch.randn(40, 5, generator=generator), torch.randint(3, (40,), generator=generator)
    trained = edges.train(
        weights,
        masks,
        edges.Task(x, y, edges.cross_entropy, 0.1, edges.Training(20, batch=16), generator),
    )
    for w, m, before in zip(trained, masks, weights):
        assert bool((w[m == 0] == 0).all())
        assert not torch.equal(w, before * m)
    before = edges.cross_entropy(edges.forward([w * m for w, m in zip(weights, masks)], x), y)
    assert float(edges.cross_entropy(edges.forward(trained, x), y)) < float(before)


def test_parts_of_the_digits_do_not_overlap() -> None:
    data = digits()
    assert [len(p[0]) for p in (data.fit, data.check, data.test)] == [1150, 287, 360]
    seen = {tuple(row) for row in data.fit[0].tolist()}
    assert not any(tuple(row) in seen for row in data.check[0].tolist())


def test_quick_study(quick, finding) -> None:
    record = quick("random-weights")
    arms = record.figures["masks 48 0.5"]["arms"]
    assert arms["edge-popup, constant, scaled"]["kept"] == pytest.approx(
        0.5 * arms["edge-popup, constant, scaled"]["total"], abs=3
    )
    assert record.figures["dense 48"]["kept"] == record.figures["dense 48"]["total"]
    popup = sum(arms["edge-popup, constant, scaled"]["accuracy"]) / 2
    assert popup > 0.6 > 0.35 > max(arms["random mask, untrained"]["accuracy"])
    assert finding(record, "A random mask of random weights").holds is True
    assert record.figures["neurons 0"]["ceiling"] > 0.8
    for row in (record.figures[f"one neuron {h}"] for h in STUDY.quick.hidden):
        assert all(0 < e < 1.5 for e in (*row["masked"], *row["features"]))


def test_the_verdict_follows_the_figures(quick) -> None:
    made = copy.deepcopy(dict(quick("random-weights").figures))
    gain = {0.1: 0.3, 0.5: 0.02}
    for name, figures in made.items():
        if name.startswith("masks"):
            keep = float(name.split()[2])
            arms = figures["arms"]
            for arm in arms.values():
                arm["accuracy"] = [0.5, 0.5]
            arms["edge-popup, constant, scaled"]["accuracy"] = [0.5 + gain[keep]] * 2
    held = {f.claim: f for f in STUDY.conclude(STUDY.quick, made).findings}
    scaling = next(f for c, f in held.items() if c.startswith("Scaling"))
    assert scaling.holds is True
    assert "keep 0.1: +30.0" in scaling.says
    blind = next(f for c, f in held.items() if c.startswith("A random mask"))
    assert blind.holds is False
    for name, figures in made.items():
        if name.startswith("masks"):
            figures["arms"]["edge-popup, constant, scaled"]["accuracy"] = [
                0.5 - gain[float(name.split()[2])]
            ] * 2
    turned = {f.claim: f.holds for f in STUDY.conclude(STUDY.quick, made).findings}
    assert turned[scaling.claim] is False
