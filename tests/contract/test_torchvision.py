"""The contract of surgery on the convolutional families of torchvision, and on the interiors of a transformer.

Small images, random weights, float64. The slow ones take all groups one by one; run them with `-m slow`.
"""

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from sprig.testing.checks import Checked, check_surgery

torchvision = pytest.importorskip("torchvision", reason="the extra `vision` is not installed")


OUTPUT = "the model gives it back as its output"
TIED = "all its channels can only leave together"  # shuffled again and again
NORM = "normalised over the channels"
MEETS = "channels meet a tensor that cannot be cut"  # here: what comes out of such a norm
TRAINING = "no convolution or linear map reads it"  # but a head that only training runs


@dataclass(frozen=True)
class Case:
    model: str
    side: int = 64  # of the image
    refused: tuple[str, ...] = (OUTPUT,)  # the only reasons for which a group may not be pruned
    batch: int = 2
    alone: int = 3  # groups tried alone in the quick run
    slow: bool = True


CASES = [
    Case("squeezenet1_1", slow=False),
    Case("shufflenet_v2_x0_5", refused=(OUTPUT, TIED), slow=False),
    Case("mnasnet0_5", slow=False),
    Case("mobilenet_v3_small", slow=False),
    Case("resnet18", 48, slow=False),
    Case("regnet_x_400mf", 48, slow=False),
    Case("vgg11"),
    Case("vgg11_bn"),
    Case("alexnet", 127),
    Case("mobilenet_v2"),
    Case("mobilenet_v3_large"),
    Case("resnet50", 48),
    Case("resnext50_32x4d", 48),
    Case("regnet_y_400mf", 48),
    Case("efficientnet_b0"),
    Case("googlenet", refused=(OUTPUT, TRAINING)),
    Case("wide_resnet50_2", 48),
    Case("convnext_tiny", refused=(OUTPUT, NORM, MEETS)),
    Case("vit_b_16", 32, refused=(OUTPUT, NORM)),
    Case("densenet121"),
    Case("inception_v3", 299, refused=(OUTPUT, TRAINING)),
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


def check(case: Case, checked: Checked) -> None:
    groups = checked.graph.groups
    others = {
        g.name: g.reason
        for g in groups
        if g.reason and not any(r in g.reason for r in case.refused)
    }
    assert not others, "interiors and streams of this family can be pruned"
    assert len(checked.graph.prunable) > 6
    assert checked.smallest_change > 1e-4


@pytest.mark.parametrize("case", [c for c in CASES if not c.slow], ids=lambda c: c.model)
def test_small_families(case: Case, seed: int) -> None:
    checked = check_surgery(*made(case), seed=seed, alone=case.alone, together=1)
    check(case, checked)
    assert checked.alone == case.alone


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.model)
def test_all_families_group_by_group(case: Case, seed: int) -> None:
    checked = check_surgery(*made(case), seed=seed)
    check(case, checked)
    assert checked.alone == len(checked.graph.prunable)
