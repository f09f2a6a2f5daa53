"""Surgery on a detector of the YOLO kind: necks, joined maps, attention, three heads."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor

import sprig
from sprig.core.tracing import distance
from sprig.testing.checks import check_surgery, output
from sprig.testing.yolo import Yolo


def test_a_detector_is_cut_everywhere_but_at_its_outputs() -> None:
    torch.manual_seed(0)
    found = check_surgery(Yolo(8).eval(), (torch.randn(2, 3, 64, 64),), alone=6)
    fixed = {g.name for g in found.graph.groups if not g.prunable}
    assert fixed == {
        "heads.0.box.1",
        "heads.0.kind.2",
    }  # the box and class numbers of all three maps
    assert found.graph.group("fifth.3.qkv").size == 4


def images(seed: int, count: int = 4) -> Tensor:
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.flow
def test_a_detector_from_pruning_to_the_folder_and_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, data = Yolo(4).eval(), [images(seed) for seed in range(1, 4)]
    sprig.reestimate_batch_norm(model, data)  # else the signal of random weights dies out
    result = sprig.prune(
        model, (images(0, 2),), data, sprig.Budget(macs=0.6), folder=tmp_path / "run"
    )
    assert result.certificate.passed
    gaps = {c.name: c.value for c in result.certificate.claims}
    assert gaps["masked-equals-shrunk-float64"] <= 1e-8
    assert 0.55 < result.after.macs / result.before.macs <= 0.6
    torch.manual_seed(99)
    small = sprig.load(tmp_path / "run", model=Yolo(4)).eval()
    assert type(small) is Yolo
    before = output(small, (images(9),), {})
    assert distance(before, output(result.model, (images(9),), {})) == 0
    assert distance(before, output(model, (images(9),), {})) > 1e-3
    assert sprig.verify(tmp_path / "run", model, data).passed
    twin = copy.deepcopy(small).train()
    twin(images(9)).square().mean().backward()
    torch.optim.SGD(twin.parameters(), lr=1e-2).step()
    assert distance(before, output(twin, (images(9),), {})) > 1e-6
    assert distance(before, output(small, (images(9),), {})) == 0
