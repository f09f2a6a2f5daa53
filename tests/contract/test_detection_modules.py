"""A detector of torchvision, which picks boxes by their values: its parts are traced, cut and counted."""

import copy

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("torchvision", reason="the extra `vision` is not installed")


IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def detector() -> nn.Module:
    from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn

    torch.manual_seed(0)
    net = fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, num_classes=4, min_size=64, max_size=64,
        box_score_thresh=0.0, box_detections_per_img=6, rpn_post_nms_top_n_test=12,
    ).eval()  # fmt: skip
    with torch.no_grad():
        for module in net.modules():
            if hasattr(module, "running_var"):
                module.register_forward_pre_hook(settle)
        net(IMAGES)
        for module in net.modules():
            module._forward_pre_hooks.clear()
    return net


def settle(norm: nn.Module, inputs: tuple[Tensor]) -> None:
    """Statistics of a norm from what it gets: else the signal of random weights dies out on the way."""
    norm.running_mean.copy_(inputs[0].mean((0, 2, 3)))  # type: ignore[operator, union-attr]
    norm.running_var.copy_(inputs[0].var((0, 2, 3)) + 1e-3)  # type: ignore[operator, union-attr]


@pytest.mark.flow
def test_backbone_and_heads_of_a_detector_are_cut() -> None:
    import sprig
    from sprig.core.cost import cost
    from sprig.core.join import recounted
    from sprig.core.surgery import mask_, shrink_
    from sprig.core.tracing import distance
    from sprig.core.trials import half_masks

    model = detector()
    graph = sprig.trace(model, (IMAGES,), modules=["backbone", "roi_heads.box_head"])
    assert len(graph.prunable) > 25
    masks = half_masks(graph, [g.index for g in graph.prunable])
    masked = mask_(copy.deepcopy(model).double(), masks, graph)
    small = shrink_(copy.deepcopy(model).double(), masks, graph)
    with torch.no_grad():
        found, boxes = masked(IMAGES.double()), small(IMAGES.double())
        assert all(len(image["boxes"]) for image in found)
        assert distance(found, boxes) <= 1e-8
        features = [net.backbone(IMAGES.double()) for net in (copy.deepcopy(model).double(), small)]
        assert distance(*features) > 1e-2
        assert distance(model.double()(IMAGES.double()), boxes) > 1e-3
    said = cost(graph, masks)
    assert said["params"] == sum(p.numel() for p in small.parameters())
    assert recounted(small.float(), graph, (IMAGES,))["macs"] == said["macs"]
    assert said["macs"] < 0.9 * cost(graph)["macs"]
