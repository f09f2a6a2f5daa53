"""The contract of surgery on the convolutional families of torchvision, and on the interiors of a transformer.

Small images, random weights, float64. The slow ones take all groups one by one; run them with `-m slow`.
"""

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from sprig.testing.checks import check_surgery

torchvision = pytest.importorskip("torchvision", reason="the extra `vision` is not installed")


@dataclass(frozen=True)
class Case:
    model: str
    side: int  # of the image
    groups: int  # that can be pruned, at least
    batch: int = 2
    alone: int | None = 3  # groups tried alone in the quick run
    slow: bool = False


CASES = [
    Case("squeezenet1_1", 64, 25),
    Case("shufflenet_v2_x0_5", 64, 16),
    Case("mnasnet0_5", 64, 25),
    Case("mobilenet_v3_small", 64, 35),
    Case("resnet18", 48, 12),
    Case("regnet_x_400mf", 48, 40),
    Case("alexnet", 127, 7, slow=True),
    Case("vgg11", 64, 10, slow=True),
    Case("vgg11_bn", 64, 10, slow=True),
    Case("resnet50", 48, 37, slow=True),
    Case("resnext50_32x4d", 48, 20, slow=True),
    Case("wide_resnet50_2", 48, 37, slow=True),
    Case("densenet121", 64, 117, slow=True),
    Case("googlenet", 64, 50, slow=True),
    Case("inception_v3", 299, 80, slow=True),
    Case("mobilenet_v2", 64, 25, slow=True),
    Case("mobilenet_v3_large", 64, 40, slow=True),
    Case("efficientnet_b0", 64, 45, slow=True),
    Case("regnet_y_400mf", 48, 45, slow=True),
    Case("convnext_tiny", 64, 18, slow=True),
    Case("vit_b_16", 32, 12, slow=True),
]


def made(case: Case) -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    options: dict[str, Any] = {"weights": None}
    if case.model == "vit_b_16":
        options["image_size"] = case.side
    if case.model in ("googlenet", "inception_v3"):
        options["init_weights"] = False
    model = getattr(torchvision.models, case.model)(**options)
    generator = torch.Generator().manual_seed(0)
    return model, (torch.randn(case.batch, 3, case.side, case.side, generator=generator),)


@pytest.mark.parametrize("case", [c for c in CASES if not c.slow], ids=lambda c: c.model)
def test_small_families(case: Case, seed: int) -> None:
    checked = check_surgery(*made(case), seed=seed, alone=case.alone, together=1)
    assert len(checked.graph.prunable) >= case.groups
    assert checked.alone == case.alone


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.model)
def test_all_families_group_by_group(case: Case, seed: int) -> None:
    checked = check_surgery(*made(case), seed=seed)
    assert len(checked.graph.prunable) >= case.groups
    assert checked.alone == len(checked.graph.prunable)
