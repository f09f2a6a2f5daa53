"""Surgery on timm's own smallest models; all families are in benchmarks/coverage.py."""

import pytest
import torch

from sprig.testing.checks import check_surgery

timm = pytest.importorskip("timm")

PRUNABLE = {  # at least so many groups
    "test_vit": 12,
    "test_coatnet": 9,
    "test_mambaout": 2,
    "test_byobnet": 14,
    "levit_128s": 28,
}


@pytest.mark.parametrize("name", PRUNABLE)
def test_smallest_models(name: str) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    shape = model.default_cfg["input_size"]
    found = check_surgery(model, (torch.randn(2, *shape),), alone=2, together=1)
    assert len(found.graph.prunable) >= PRUNABLE[name]
