"""Layers whose inputs never vary: a branch that starts at zero, units that are dead, one sample at a time."""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sprig


class Sleeping(nn.Module):
    """A branch whose last batch norm is zero, as many networks start, and a layer behind nothing but dead units."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.inner, self.norm = nn.Conv2d(12, 10, 3, padding=1), nn.BatchNorm2d(10)
        self.outer, self.last = nn.Conv2d(10, 12, 1), nn.BatchNorm2d(12)
        self.dead, self.behind = nn.Conv2d(12, 8, 1), nn.Conv2d(8, 12, 1)
        self.head = nn.Linear(12, 5)
        nn.init.zeros_(self.last.weight)
        nn.init.constant_(self.dead.bias, -1e3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = x + self.last(self.outer(F.relu(self.norm(self.inner(x)))))
        x = x + self.behind(F.relu(self.dead(x)))
        return self.head(x.mean((2, 3)))


def test_what_never_varies_is_cut_like_all_else() -> None:
    torch.manual_seed(0)
    net = Sleeping().eval()
    before = copy.deepcopy(net.state_dict())
    x = torch.randn(48, 3, 8, 8)
    result = sprig.prune(net, (x[:2],), [x], sprig.Budget(macs=0.5))
    assert result.certificate.passed
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())
    assert result.after.macs <= 0.5 * result.before.macs
    kept = {name: len(units) for name, units in result.plan.keep.items()}
    assert min(kept.values()) >= 1
    with torch.no_grad():
        off = (result.model(x) - net(x)).square().mean() / net(x).var(0).mean()
    assert float(off) < 0.5, "the budget is taken from what does nothing"


def test_inputs_that_are_all_alike() -> None:
    torch.manual_seed(0)
    net = Sleeping().eval()
    x = torch.ones(16, 3, 8, 8)
    result = sprig.prune(net, (x[:2],), [x], sprig.Budget(macs=0.6))
    assert result.certificate.passed
    with torch.no_grad():
        torch.testing.assert_close(result.model(x), net(x), rtol=1e-3, atol=1e-3)
