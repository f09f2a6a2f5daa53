"""The final pass of `refit`: exchanges of units, weights stored the other way round, channels that come twice."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

import sprig
from sprig.core.batches import as_batches
from sprig.core.deal import judges
from sprig.core.path import Path
from sprig.core.plan import Plan
from sprig.core.stats import Moments
from sprig.core.tracing import trace
from sprig.core.types import Outcome
from sprig.core.workbench import Workbench
from sprig.methods.greedy import sequential
from sprig.methods.greedy.evidence import own_target, problems
from sprig.methods.greedy.plateau import Sample
from sprig.methods.greedy.pursuit import value
from sprig.methods.greedy.refit import RefitConfig, evidence_of, realise, search


class Fork(nn.Module):
    """Hidden features that two layers read, made of few directions, so that greedy picks can be bettered."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.up = nn.Linear(6, 7), nn.Linear(7, 20)
        self.left, self.right = nn.Linear(20, 4), nn.Linear(20, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.up(torch.tanh(self.low(x))))
        return self.left(x) * torch.sigmoid(self.right(x))


def bench(seed: int) -> tuple[Workbench, Path]:
    torch.manual_seed(seed)
    net, x = Fork().eval(), torch.randn(512, 6)
    made = Workbench(net, trace(net, (x[:2],)), list(as_batches([x])))
    return made, search(made, RefitConfig())


def test_exchanges_never_raise_the_error_and_lower_it_somewhere() -> None:
    better = 0
    for seed in range(4):
        made, path = bench(seed)
        plan = path.at(sprig.Budget(macs=0.45))
        config = RefitConfig(swaps=20, reselect=False)
        group = made.graph.group("up")
        found = problems(made, group, evidence_of(made, config).of(group))
        swapped: Plan = realise(made, plan, config).plan
        before, after = (value(found, p.keep["up"], size=20, ridge=0.0) for p in (plan, swapped))
        assert after <= before + 1e-9
        better += after < before - 1e-6
    assert better


def test_a_weight_stored_by_inputs_is_solved_like_any_other() -> None:
    class Stored(nn.Module):
        def __init__(self, inputs: int, outputs: int) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(inputs, outputs) / inputs**0.5)
            self.bias = nn.Parameter(torch.randn(outputs))

        def forward(self, x: Tensor) -> Tensor:
            return torch.addmm(self.bias, x, self.weight)

    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(6, 24), nn.GELU(), nn.Linear(24, 8)).eval()
    other = nn.Sequential(Stored(6, 24), nn.GELU(), Stored(24, 8)).eval()
    for i in (0, 2):
        other[i].weight.data.copy_(plain[i].weight.T)
        other[i].bias.data.copy_(plain[i].bias)
    x = torch.randn(256, 6)
    results: list[Outcome] = []
    for net in (plain, other):
        made = Workbench(net, trace(net, (x[:2],)), list(as_batches([x])))
        path = search(made, RefitConfig())
        results.append(realise(made, path.at(sprig.Budget(params=0.5)), RefitConfig()))
    a, b = results
    assert dict(a.plan.keep) == dict(b.plan.keep)
    torch.testing.assert_close(a.weights["2.weight"], b.weights["2.weight"].T)
    torch.testing.assert_close(a.weights["2.bias"], b.weights["2.bias"])


class Twice(nn.Module):
    """Hidden channels in pairs, each pair one channel at two scales: half of them say all there is to say."""

    def __init__(self, enter: nn.Module, leave: nn.Module) -> None:
        super().__init__()
        self.enter, self.leave = enter, leave
        scale = torch.linspace(0.6, 1.4, 4)
        for parameter in enter.parameters():
            half = parameter.data[:4]
            parameter.data[4:] = half * scale.reshape([4] + [1] * (half.dim() - 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(torch.relu(self.enter(x)))


def test_a_transposed_convolution_makes_up_for_what_other_channels_tell() -> None:
    torch.manual_seed(0)
    leave = nn.ConvTranspose2d(8, 5, 3, stride=2, padding=1, output_padding=1)
    net, x = Twice(nn.Conv2d(3, 8, 3), leave).eval(), torch.randn(64, 3, 6, 6)
    result = sprig.prune(net, (x[:2],), [x], sprig.Budget(params=0.52))
    small = result.model
    assert small.enter.out_channels == small.leave.in_channels == 4  # type: ignore[union-attr]
    assert small.leave.out_channels == 5  # type: ignore[union-attr]
    with torch.no_grad():
        torch.testing.assert_close(small(x), net(x), atol=2e-3, rtol=0)


def test_layers_behind_and_inside_a_recurrence_are_solved_anew() -> None:
    """The inputs of an LSTM come in pairs; one of each is enough, for all gates of both directions."""
    torch.manual_seed(0)

    class Gates(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.LSTM(8, 3, batch_first=True, bidirectional=True)
            self.head = nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rnn(x)[0])

    net, x = Twice(nn.Linear(5, 8), Gates()).eval(), torch.randn(256, 6, 5)
    graph = trace(net, (x[:2],))
    made = Workbench(net, graph, list(as_batches([x])))
    path = search(made, RefitConfig())
    keep = path.groups["enter"].order[:4]
    assert sorted(u % 4 for u in keep) == [0, 1, 2, 3], "one of each pair first"
    plan = Plan(
        keep={"enter": tuple(sorted(keep))},
        sizes={"enter": 8},
        graph=graph.fingerprint,
        method="refit",
    )
    small = sprig.shrink(net, realise(made, plan, RefitConfig(reselect=False)), graph)
    assert small.leave.rnn.input_size == 4
    with torch.no_grad():
        torch.testing.assert_close(small(x), net(x), atol=2e-3, rtol=0)


def test_a_layer_makes_up_for_what_was_lost_before_it_unless_asked_not_to() -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 4)]
    net, x = nn.Sequential(*layers).eval(), torch.randn(512, 6)
    made = Workbench(net, trace(net, (x[:2],)), list(as_batches([x])))
    plan = Plan(
        keep={"0": tuple(range(6)), "2": tuple(range(12))},
        sizes={"0": 16, "2": 12},
        graph=made.graph.fingerprint,
    )
    error = {}
    for asymmetric in (True, False):
        config = RefitConfig(asymmetric=asymmetric, reselect=False, rounds=0, ridge=1e-8)
        outcome = realise(made, plan, config)
        with torch.no_grad():
            small = sprig.shrink(net, outcome, made.graph)
            error[asymmetric] = float((small(x) - net(x)).square().mean())
        last = outcome.weights["4.weight"]
        same = torch.allclose(last, net[4].weight, atol=1e-4)
        assert same is not asymmetric, "nothing of what it reads was cut: only what was lost before"
    assert error[True] < 0.95 * error[False]


def test_without_trials_the_share_of_the_outputs_that_is_lost_stands_for_harm() -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)).eval(), torch.randn(64, 6)
    made = Workbench(net, trace(net, (x[:2],)), list(as_batches([x])))
    path = search(made, RefitConfig(trials=()))
    harm, errors = path.harm["0"], path.groups["0"].errors
    whole = errors[0] - errors[-1]
    assert harm == pytest.approx([(e - errors[-1]) / whole for e in errors], abs=1e-12)
    assert harm[0] == 1.0 and harm[8] == 0.0 and 0 < harm[4] < 1


def few_inputs() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A deep network of many units, few inputs to fit on, many others of the same kind."""
    torch.manual_seed(0)
    widths = [12, 64, 64, 64, 64, 8]
    layers = [m for a, b in pairwise(widths) for m in (nn.Linear(a, b), nn.ReLU())][:-1]
    x = torch.randn(64 + 512, 12) @ torch.randn(12, 12)
    return nn.Sequential(*layers).eval(), x[:64], x[64:]


def test_the_twin_learns_nothing_of_the_inputs_that_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its weights do not change when those inputs do; the network's own do."""
    net, x, unseen = few_inputs()
    graph = trace(net, (x[:2],))
    first = Workbench(net, graph, list(as_batches([x])))
    plan = search(first, RefitConfig()).at(sprig.Budget(macs=0.5))
    other = x.clone()
    for chunk in first.chunks:
        if judges(chunk.number):
            start = chunk.number * first.replay.batch
            other[start : start + chunk.rows] = unseen[: chunk.rows]
    monkeypatch.setattr(sequential, "judged_ridge", lambda *a, **k: 1e-2)
    nets = []
    for data in (x, other):
        made = Workbench(net, graph, list(as_batches([data])))
        run = sequential.Sequential(
            made, plan, ridge=None, rows=10_000, reselect=False, streams=True, twin=True
        )
        run.run()
        nets.append(run.nets)
    (own, twin), (other_own, other_twin) = nets
    assert torch.equal(twin["8.weight"], other_twin["8.weight"])
    assert not torch.allclose(own["8.weight"], other_own["8.weight"], atol=1e-4)


def test_targets_that_are_a_layers_own_output() -> None:
    torch.manual_seed(0)
    x, y, weight, bias = torch.randn(50, 5), torch.randn(50, 3), torch.randn(3, 5), torch.randn(3)
    made = x @ weight.mT + bias
    mine, by_hand = own_target(Moments.from_rows(x, y), weight, bias), Moments.from_rows(x, made)
    torch.testing.assert_close(mine.cross, by_hand.cross, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mine.target_mean, by_hand.target_mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(Sample(x, y).own_target(weight, bias).y, made)
