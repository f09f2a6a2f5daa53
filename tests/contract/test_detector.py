"""Surgery on a detector of the YOLO kind: necks, joined maps, attention, three heads."""

import torch

from sprig.testing.checks import check_surgery
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
