"""Measured harm equals running the changed network; between the measured points nothing odd happens."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sprig.core.collect import judges
from sprig.core.harm import harm, looks_like_scores
from sprig.core.sensitivity import Trial, interpolate, measure
from sprig.core.tracing import trace
from sprig.core.types import Group
from sprig.core.workbench import Workbench
from sprig.testing import toys
from sprig.testing.checks import output


def bench_of(name: str, samples: int = 11) -> Workbench:
    net, (x,) = toys.make(name)
    data = torch.randn(samples, *x.shape[1:], generator=torch.Generator().manual_seed(1))
    return Workbench(net.eval(), trace(net, (x,)), [((data,), {}, None)])


def zeroed(bench: Workbench, trial: Trial) -> dict[str, Tensor]:
    """Weights of the group's consumers with all but the first units' columns at zero."""
    out: dict[str, Tensor] = {}
    group = bench.graph.groups[trial.group]
    for index in group.consumers:
        c = bench.graph.consumers[index]
        keep = torch.from_numpy(c.axis.keep({trial.group: np.arange(group.size) < trial.kept}))
        weight = out.get(c.weight, bench.weights[c.weight])
        out[c.weight] = weight * keep.view([1, -1] + [1] * (weight.dim() - 2)).to(weight.dtype)
    return out


@pytest.mark.parametrize("name", ["residual", "dense", "flatten", "shared", "layer_norm"])
def test_measured_harm_is_that_of_the_changed_network(name: str) -> None:
    bench = bench_of(name)
    trials = [Trial(g.index, n) for g in bench.graph.prunable for n in (1, g.size // 2, g.size)]
    found = measure(bench, trials[::-1], lambda t: zeroed(bench, t), work=1e18)
    judged = [c for i, c in enumerate(bench.chunks) if judges(i)]
    rows = torch.cat([c.args[0][: c.rows] for c in judged])
    dense = output(bench.model, (rows,), {})
    assert 0 < len(rows) < bench.samples
    for trial in trials:
        changed: Any = copy.deepcopy(bench.model)
        changed.load_state_dict({**changed.state_dict(), **zeroed(bench, trial)})
        if name == "shared":  # the stream has one weight under one name
            assert bench.graph.groups[trial.group].name == "stem"
        other = output(changed, (rows,), {})
        expected = float(
            F.kl_div(
                other.double().log_softmax(-1), dense.double().softmax(-1), reduction="batchmean"
            )
        )
        assert found[trial] == pytest.approx(expected, rel=1e-3, abs=1e-9)
        if trial.kept == bench.graph.groups[trial.group].size:
            assert found[trial] == pytest.approx(0, abs=1e-12)
        else:
            assert found[trial] > 1e-7


def test_the_prefix_is_run_once() -> None:
    bench = bench_of("residual", 40)
    trials = [Trial(g.index, n) for g in bench.graph.prunable for n in (1, 2)]
    replay = bench.replay
    steps: list[tuple[str, int, int]] = []
    bench.progress = lambda *step: steps.append(step)
    replay.count.layers = 0
    measure(bench, trials, lambda t: zeroed(bench, t), work=1e18)
    chunks = sum(judges(i) for i in range(len(bench.chunks)))
    layers = sum(any(w in str(n.target) for w in ("conv", "linear")) for n in replay.nodes)
    assert layers == 6
    # of the six layers, five, four and two lie behind the first consumer of the three groups; all once for the
    # dense outputs, and the prefix of four once
    assert replay.count.layers == chunks * (6 + 4 + 2 * (5 + 4 + 2))
    assert steps[0] == ("sensitivity", 0, 6)
    assert steps[-1] == ("sensitivity", 6, 6)


def test_little_work_means_few_samples() -> None:
    bench = bench_of("chain", 40)
    (trial,) = [Trial(g.index, 2) for g in bench.graph.prunable][:1]
    found = measure(bench, [trial], lambda t: zeroed(bench, t), work=1.0, least=3)
    rows = next(c for i, c in enumerate(bench.chunks) if judges(i)).args[0][:3]
    changed: Any = copy.deepcopy(bench.model)
    changed.load_state_dict({**changed.state_dict(), **zeroed(bench, trial)})
    other, dense = output(changed, (rows,), {}), output(bench.model, (rows,), {})
    assert found[trial] == pytest.approx(
        float(harm([dense], [other], scores=True).mean()), rel=1e-3
    )


def test_curves_pass_through_the_measured_points() -> None:
    draw = np.random.default_rng(0)
    for _ in range(20):
        errors = [*np.sort(draw.random(8) + 1e-3)[::-1].tolist(), 0.0]
        measured = {2: 0.8, 5: 0.05, 7: 0.001}
        curve = interpolate(Group(0, "g", 8, (), (), (), 8), errors, measured)
        assert len(curve) == 9
        assert curve[8] == 0
        assert (np.diff(curve) <= 0).all(), "more units never hurt more"
        for n, value in measured.items():
            assert curve[n] == pytest.approx(value)


def test_curves_without_points_and_with_noise() -> None:
    group = Group(0, "g", 3, (), (), (), 3)
    assert interpolate(group, [1.0, 0.5, 0.25, 0.25], {}) == pytest.approx((0.75, 0.25, 0.0, 0.0))
    noisy = interpolate(group, [1.0, 0.5, 0.25, 0.0], {1: 0.1, 2: 0.4})
    assert (np.diff(noisy) <= 0).all()
    assert np.isfinite(noisy).all()


# ---- harm -----------------------------------------------------------------------------------------
def test_harm_of_scores_is_the_divergence(generator: torch.Generator) -> None:
    a, b = (torch.randn(5, 4, generator=generator) for _ in range(2))
    expected = F.kl_div(b.double().log_softmax(1), a.double().softmax(1), reduction="none").sum(1)
    assert torch.allclose(harm([a], [b], scores=True), expected)
    assert torch.allclose(
        harm([a], [a + 3], scores=True), torch.zeros(5, dtype=torch.float64), atol=1e-9
    )
    assert looks_like_scores([a])
    assert not looks_like_scores([a, b])
    assert not looks_like_scores([a[:, :1]])


def test_harm_of_anything_else_is_relative_to_its_own_spread(generator: torch.Generator) -> None:
    a = torch.randn(6, 3, 4, generator=generator)
    assert torch.allclose(
        harm([a * 100], [a * 100 + 7], scores=False), harm([a], [a + 0.07], scores=False)
    )
    mean = a.mean(0, keepdim=True).expand_as(a)
    assert float(harm([a], [mean], scores=False).mean()) == pytest.approx(1.0)
    both = harm([a, a * 2], [mean, a * 2], scores=False)
    assert float(both.mean()) == pytest.approx(0.5)


def test_harm_skips_what_has_no_row_per_sample(generator: torch.Generator) -> None:
    a = torch.randn(6, 3, generator=generator)
    with_loss = harm([torch.tensor(1.0), a], [torch.tensor(9.0), a + 1], scores=False)
    assert torch.equal(with_loss, harm([a], [a + 1], scores=False))
    assert harm([torch.tensor(1.0)], [torch.tensor(2.0)], scores=False).shape == (0,)
