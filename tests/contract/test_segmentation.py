"""Surgery on networks that label every pixel: dilated bodies, pooled context, up-sampling, a dict of outputs."""

import pytest
import torch

from sprig.models import specs
from sprig.testing.checks import check_surgery


@pytest.mark.parametrize(
    "name",
    [
        "lraspp_mobilenet_v3_large",
        pytest.param("deeplabv3_mobilenet_v3_large", marks=pytest.mark.slow),
        pytest.param("fcn_resnet50", marks=pytest.mark.slow),
    ],
)
def test_all_but_the_classes_is_cut(name: str) -> None:
    torch.manual_seed(0)
    model = specs.build(f"torchvision:{name}")  # no weights are fetched for its body
    found = check_surgery(model, (torch.randn(2, 3, 64, 64),), alone=4)
    fixed = [g for g in found.graph.groups if not g.prunable]
    assert {g.size for g in fixed} == {21}
    assert all("gives it back as its output" in str(g.reason) for g in fixed)
