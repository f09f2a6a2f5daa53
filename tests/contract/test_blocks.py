"""The contract of surgery on blocks and necks as libraries write them, each in the smallest network that has it."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sprig.testing.checks import check_surgery

timm = pytest.importorskip("timm", reason="the extra `vision` is not installed")
torchvision = pytest.importorskip("torchvision", reason="the extra `vision` is not installed")

NORM = "normalised over the channels (layer_norm in "
STUCK = "does not follow a smaller width"
OUTPUT = "the model gives it back as its output"
MEETS = "channels meet a tensor that cannot be cut"  # here: what comes out of such a norm


class Around(nn.Module):
    """A block between two layers that read and feed it."""

    def __init__(self, block: nn.Module, width: int = 16) -> None:
        super().__init__()
        self.stem, self.block, self.head = nn.Conv2d(3, width, 3), block, nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(F.relu(self.stem(x))).mean((2, 3)))


class Pyramid(nn.Module):
    """Three maps, torchvision's neck from top to bottom, one head that all its maps share."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 12, 3, 2, 1)
        self.third = nn.Conv2d(12, 16, 3, 2, 1)
        self.neck = torchvision.ops.FeaturePyramidNetwork([8, 12, 16], 10)
        self.tower, self.out = nn.Conv2d(10, 6, 3, padding=1), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        first = F.relu(self.first(x))
        second = F.relu(self.second(first))
        maps = {"1": first, "2": second, "3": F.relu(self.third(second))}
        return [self.out(F.relu(self.tower(m))) for m in self.neck(maps).values()]


class Aggregation(nn.Module):
    """A neck that goes down and up again: each map is resized, joined, and added to what it was."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, 9, 3, 2, 1)
        self.side, self.down = nn.Conv2d(6 + 9, 6, 1), nn.Conv2d(6, 7, 3, 2, 1)
        self.join, self.heads = (
            nn.Conv2d(7 + 9, 8, 1),
            nn.ModuleList(nn.Conv2d(c, 4, 1) for c in (6, 8)),
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        fine = F.relu(self.fine(x))
        coarse = F.relu(self.coarse(fine))
        up = F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False)
        fine = fine + F.relu(self.side(torch.cat([up, fine], 1)))
        joined = self.join(torch.cat([F.relu(self.down(fine)), coarse], 1))
        return [head(m) for head, m in zip(self.heads, (fine, F.relu(joined)), strict=True)]


def swin() -> nn.Module:
    """Windows, every second layer shifted, a table of relative places; heads come from the width in its code."""
    return torchvision.models.SwinTransformer(
        patch_size=[4, 4], embed_dim=16, depths=[2], num_heads=[2], window_size=[4, 4],
        num_classes=5,
    )  # fmt: skip


def cait() -> nn.Module:
    """Talking heads, then class attention."""
    return timm.models.cait.Cait(
        img_size=32, patch_size=8, embed_dim=24, depth=1, num_heads=3, num_classes=5
    )


@dataclass(frozen=True)
class Case:
    make: Callable[[], nn.Module]
    prunable: int  # groups
    refused: tuple[str, ...] = (OUTPUT,)  # the only reasons for which others may not be pruned


CASES = {
    "swin": Case(swin, 2, (OUTPUT, NORM, MEETS, STUCK)),
    "cait": Case(cait, 4, (OUTPUT, NORM, MEETS, STUCK)),
    "selective_kernel": Case(lambda: Around(timm.layers.SelectiveKernel(16, 16)), 3),
    "shuffle": Case(lambda: Around(torchvision.models.shufflenetv2.InvertedResidual(16, 16, 1)), 2),
    "pyramid": Case(Pyramid, 6),
    "aggregation": Case(Aggregation, 4),
}


@pytest.mark.parametrize("name", CASES)
def test_blocks_as_libraries_write_them(name: str, seed: int) -> None:
    torch.manual_seed(seed)
    case = CASES[name]
    found = check_surgery(
        case.make().eval(), (torch.randn(2, 3, 32, 32),), seed=seed, alone=2, together=1
    )
    others = {g.name: str(g.reason) for g in found.graph.groups if not g.prunable}
    assert not {n: r for n, r in others.items() if not any(k in r for k in case.refused)}
    assert len(found.graph.prunable) == case.prunable
    assert all(" in " in r and ".py:" in r for r in others.values()), "each names module and line"
