"""Networks that do not run in double precision: one claim less, and the other one says why."""

from pathlib import Path

import torch
from torch import Tensor, nn

import sprig


class Single(nn.Module):
    """Holds a product that exists in single precision alone."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.enter(x))
        if x.dtype is torch.float64:
            raise RuntimeError("Expected a Float32 matrix, got Double")
        return self.leave(x)


def test_what_runs_in_single_precision_alone_is_cut_and_checked_in_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, x = Single().eval(), torch.randn(64, 6)
    done = sprig.prune(net, (x[:2],), [x], sprig.Budget(macs=0.5), folder=tmp_path / "run")
    claims = {c.name: c for c in done.certificate.claims}
    assert "masked-equals-shrunk-float64" not in claims
    single = claims["masked-equals-shrunk-float32"]
    assert single.passed and "does not run in float64: Expected a Float32 matrix" in single.how
    assert sprig.verify(tmp_path / "run", net, [x]).passed
