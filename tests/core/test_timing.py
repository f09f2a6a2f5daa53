"""Settings and stopwatches."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from sprig.core.errors import InputError
from sprig.core.timing import Timing, brief, machine, optional, paired, sweeps, threads

CPU = torch.device("cpu")


class Hand:
    """A clock that goes on when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def work(self, seconds: Callable[[], float]) -> Callable[[], None]:
        def call() -> None:
            self.now += seconds()

        return call


def test_pairs_give_the_ratio_whatever_the_drift() -> None:
    """The machine gets slower and slower; both are measured in turn, so the ratio stays."""
    hand = Hand()
    dense = hand.work(lambda: 1e-3 * (1 + hand.now))
    small = hand.work(lambda: 0.4e-3 * (1 + hand.now))
    seen = paired(dense, small, device=CPU, clock=hand, seconds=0.5)
    assert seen["ratio"] == pytest.approx(0.4, rel=2e-3)
    assert seen["low"] <= seen["ratio"] <= seen["high"]
    assert seen["small_ms"] / seen["dense_ms"] == pytest.approx(0.4, rel=2e-2)
    assert 7 <= seen["pairs"] <= 199


def test_short_calls_are_put_together() -> None:
    """Every fourth millisecond of work somebody else gets ten: single calls of 1 ms would be 1 or 11."""
    hand, done = Hand(), [0.0]

    def shared(seconds: float) -> Callable[[], None]:
        def call() -> None:
            before, done[0] = done[0], done[0] + seconds
            hand.now += seconds + 0.010 * (int(done[0] / 0.004) - int(before / 0.004))

        return call

    seen = paired(shared(1e-3), shared(0.5e-3), device=CPU, clock=hand, seconds=2.0)
    assert seen["ratio"] == pytest.approx(0.5, rel=0.15)
    assert seen["high"] < 0.7 and seen["low"] > 0.35


def test_at_least_seven_pairs() -> None:
    hand = Hand()
    slow = hand.work(lambda: 10.0)
    assert paired(slow, slow, device=CPU, clock=hand, pairs=3)["pairs"] == 7
    assert paired(slow, slow, device=CPU, clock=hand, pairs=12)["pairs"] == 12


@pytest.mark.parametrize(("spread", "longer"), [(0.01, False), (0.6, True)])
def test_scattered_ratios_are_measured_longer(spread: float, longer: bool) -> None:
    hand, draw = Hand(), np.random.default_rng(0)
    dense, small = (
        hand.work(lambda s=s: s * (1 + spread * draw.uniform(-1, 1))) for s in (0.2, 0.1)
    )
    seen = paired(dense, small, device=CPU, clock=hand, seconds=6.0)
    assert (hand.now > 12.0) is longer
    assert hand.now < 6.0 * 4 + 2.0
    assert seen["pairs"] >= 7


def test_sweeps_take_the_median_of_interleaved_measurements() -> None:
    hand, order = Hand(), []

    def call(i: int) -> Callable[[], None]:
        def run() -> None:
            order.append(i)
            hand.now += (i + 1) * 1.0 + (50.0 if len(order) == 10 else 0.0)  # one hiccup

        return run

    found = sweeps([call(0), call(1)], rounds=5, device=CPU, clock=hand)
    np.testing.assert_allclose(found, [1000.0, 2000.0])
    assert order == [0, 1, 0, 1] + [0, 1, 1, 0] * 2 + [0, 1], "warm-up, one look, then to and fro"


def test_short_calls_are_measured_more_often() -> None:
    hand, count = Hand(), [0]

    def run() -> None:
        count[0] += 1
        hand.now += 1e-4

    sweeps([run], rounds=5, device=CPU, clock=hand)
    assert count[0] == 2 + 25


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"batch": 0}, "batch=0: expected a number of at least 1"),
        ({"batch": True}, "batch=True"),
        ({"threads": 0}, "threads=0: expected"),
        ({"seconds": -1.0}, "seconds=-1.0: expected a number of at least 0"),
        ({"rounds": 2}, "rounds=2: expected a number of at least 3"),
        ({"dtype": "int8"}, "dtype='int8'; known are float32, bfloat16"),
        ({"backend": "tvm"}, "backend='tvm'; known are eager"),
        ({"backend": "onnxruntime", "dtype": "bfloat16"}, "float32 only"),
    ],
)
def test_settings_that_make_no_sense(fields: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Timing(**fields)  # type: ignore[arg-type]


def test_a_setting_says_what_a_number_depends_on() -> None:
    setting = Timing(batch=4, threads=1, dtype=torch.bfloat16).setting(CPU)
    assert setting["dtype"] == "bfloat16" and setting["torch"] == torch.__version__
    assert setting["device"] == machine(CPU)
    assert brief(setting).startswith("batch 4, 1 thread, bfloat16, eager, on ")


def test_threads_come_back() -> None:
    before = torch.get_num_threads()
    with threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with pytest.raises(InputError), threads(before + 1):
        optional("no_such_package")
    assert torch.get_num_threads() == before


def test_a_package_that_is_not_there_is_named() -> None:
    with pytest.raises(InputError, match=r"needs the package no_such_package: pip install"):
        optional("no_such_package")
