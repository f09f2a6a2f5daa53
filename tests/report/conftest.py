"""Records made up from a seed: any number of groups, with or without each of the parts a run may lack."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from sprig.core.plan import Plan
from sprig.core.types import Certificate, Claim, CurvePoint, GroupRow, Measures, RunRecord

RESIDUAL = "its channels are added to the network's output <directly> & cannot leave"


def make_groups(count: int, seed: int = 0) -> tuple[GroupRow, ...]:
    """Groups of growing width, every seventh untouchable; errors fall, bounds lie below them."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        depth = i / max(1, count - 1)
        size = int(rng.choice([1, 2, 4])) * 2 ** int(4 + 5 * depth)
        name = f"layer{1 + int(3.99 * depth)}.{i}.conv{1 + i % 3}"
        if i % 7 == 6:
            reason = (
                RESIDUAL
                if i % 2
                else "an operation that sprig does not know reads it: aten.fft_rfft"
            )
            rows.append(GroupRow(name, size, tuple(range(size)), reason, 0.0))
            continue
        keep = max(1, int(size * rng.uniform(0.25, 0.95)))
        kept = tuple(sorted(int(u) for u in rng.choice(size, keep, replace=False)))
        share = np.linspace(0, 1, size + 1)
        rate = rng.uniform(2, 6)
        errors = (1 - share) * np.exp(-rate * share)
        floor = errors * (0.35 + 0.5 * share)
        rows.append(
            GroupRow(
                name,
                size,
                kept,
                None,
                float(rng.uniform(0.001, 2 / count)),
                tuple(map(float, errors)),
                tuple(map(float, floor)),
                tuple(map(float, 3 * errors)) if i % 2 else (),
            )
        )
    return tuple(rows)


def make_curve(dense: int, params: int) -> tuple[CurvePoint, ...]:
    points = []
    for i in range(20):
        fraction = 1 - i / 22
        seen = {"accuracy": 0.9751 - 0.9 * (1 - fraction) ** 4} if i % 3 == 0 else {}
        harm = 2.4 * (1 - fraction) ** 3
        points.append(
            CurvePoint(fraction, int(dense * fraction), int(params * fraction**0.9), harm, seen)
        )
    return tuple(points)


def make_certificate(failing: bool = False) -> Certificate:
    claims = (
        Claim(
            "masked equals shrunk",
            "The shrunk network computes what the masked original computes.",
            True,
            3.1e-7,
            1e-4,
            "64 probe inputs, seed 0",
            "largest difference of the outputs over the largest output, float32",
            {"float64": 4.2e-13, "inputs": 64},
        ),
        Claim(
            "budget met",
            "The multiply-adds, recounted on the shrunk network, are within the budget.",
            not failing,
            300_000_001 if failing else 299_812_345,
            300_000_000,
            "",
            "recount of every convolution and linear map",
        ),
        Claim(
            "error per group",
            "The largest error of a group on held-out inputs.",
            True,
            0.0312,
            None,
            "330 held-out inputs <photos>",
            "share of the output's energy that is lost",
            {"per group": {f"g{i}": i / 100 for i in range(5)}, "worst": list(range(40))},
        ),
    )
    return Certificate(
        claims,
        {"model.safetensors": "ab" * 32, "plan.json": "cd" * 32},
        {"torch": "2.14.1", "sprig": "0.1.0"},
        7,
    )


def make_record(count: int = 12, seed: int = 0, **changes: object) -> RunRecord:
    groups = make_groups(count, seed)
    plan = Plan(
        keep={g.name: g.kept for g in groups if g.reason is None},
        sizes={g.name: g.size for g in groups if g.reason is None},
        graph="e5" * 32,
        method="greedy",
        seed=7,
        cost={"macs": 2_046_112_345, "params": 13_312_345, "bytes": 53_249_380},
    )
    before = Measures(
        4_109_464_576,
        25_557_032,
        102_228_128,
        {
            "1": {"median": 31.42, "low": 30.9, "high": 33.1},
            "32": {"median": 812.25, "low": 806.5, "high": 840.125},
        },
        {"accuracy": 0.9751},
    )
    after = Measures(
        2_046_112_345,
        13_312_345,
        53_249_380,
        {
            "1": {"median": 19.81, "low": 19.2, "high": 21.7},
            "32": {"median": 473.5, "low": 468.25, "high": 491.5},
        },
        {"accuracy": 0.9713, "agreement": 0.9642, "kl": 0.0413},
    )
    curve = make_curve(before.macs, before.params)
    log = tuple(
        {"stage": "finetune", "epoch": e, "loss": 0.4 / e + 0.0123, "accuracy": 0.95 + 0.002 * e}
        for e in range(1, 9)
    )
    record = RunRecord(
        title="torchvision:resnet50",
        config={
            "model": "torchvision:resnet50",
            "data": "imagefolder:photos",
            "budget": {"macs": 0.5},
            "seed": 7,
        },
        plan=plan,
        certificate=make_certificate(),
        before=before,
        after=after,
        groups=groups,
        curve=curve,
        log=log,
    )
    return replace(record, **changes)


@pytest.fixture
def record_of() -> Callable[..., RunRecord]:
    return make_record


@pytest.fixture
def certificate_of() -> Callable[..., Certificate]:
    return make_certificate
