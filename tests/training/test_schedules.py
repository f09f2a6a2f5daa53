"""The schedules against their closed forms."""

import math

import pytest

from sprig.training import schedules
from sprig.training.config import FinetuneConfig, schedule_for


@pytest.mark.parametrize("step", range(0, 101, 10))
def test_cosine_and_linear_after_warm_up(step):
    t = (step - 10) / 90
    cosine = schedules.cosine(step, total=100, warmup=10, final=0.1)
    linear = schedules.linear(step, total=100, warmup=10, final=0.1)
    if step < 10:
        assert cosine == linear == (step + 1) / 10
    else:
        assert cosine == pytest.approx(0.1 + 0.9 * math.cos(math.pi * t / 2) ** 2, abs=1e-12)
        assert linear == pytest.approx(1 - 0.9 * t, abs=1e-12)


def test_the_end_is_held():
    assert schedules.cosine(500, total=100) == 0.0
    assert schedules.linear(500, total=100, final=0.2) == pytest.approx(0.2)


def test_warm_up_rises_to_one_and_joins_without_a_jump():
    rise = [schedules.constant(s, warmup=5) for s in range(7)]
    assert rise == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 1.0])
    assert schedules.cosine(5, total=50, warmup=5) == 1.0


def test_steps_fall_at_milestones():
    got = [schedules.steps(s, milestones=(3, 6)) for s in (0, 2, 3, 5, 6, 9)]
    assert got == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


@pytest.mark.parametrize(
    ("config", "step", "factor"),
    [
        (FinetuneConfig(epochs=4), 20, 0.5),
        (FinetuneConfig(epochs=4, schedule="linear"), 10, 0.75),
        (FinetuneConfig(epochs=4, schedule="constant", warmup=1), 4, 0.5),
        (FinetuneConfig(epochs=4, schedule="steps", milestones=(2,)), 20, 0.1),
        (FinetuneConfig(epochs=4, schedule="steps", milestones=(2,)), 19, 1.0),
    ],
)
def test_the_config_counts_in_epochs(config, step, factor):
    assert schedule_for(config, steps_per_epoch=10)(step) == pytest.approx(factor)
