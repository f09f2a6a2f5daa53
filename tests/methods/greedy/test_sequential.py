"""The final pass of `refit`: exchanges of units, weights stored the other way round."""

import torch
from torch import Tensor, nn

import sprig
from sprig.core.batches import as_batches
from sprig.core.path import Path
from sprig.core.plan import Plan
from sprig.core.tracing import trace
from sprig.core.types import Outcome
from sprig.core.workbench import Workbench
from sprig.methods.greedy.evidence import problems
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
