"""Images with their channels last in memory: the same numbers, faster convolutions on a CPU, rows that lie together."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx

IMAGES = (
    "aten.conv2d.default", "aten.conv2d.padding", "aten.conv3d.default", "aten.conv3d.padding",
)  # fmt: skip
VIEW = torch.ops.aten.view.default  # may have to be a copy then


def on_cpu(tensors: Iterable[Tensor]) -> bool:
    return all(t.device.type == "cpu" for t in tensors)


def takes_images(inputs: Collection[fx.Node], plain: Mapping[fx.Node, Any]) -> bool:
    """Whether a convolution over images or volumes is what the inputs go to, and no view is written to.

    plain: the calls of the program, with the twin of each that writes to nothing.
    """
    written = [n.args[0] for n, twin in plain.items() if twin is not n.target and n.args]
    if any(isinstance(n, fx.Node) and n.target is VIEW for n in written):
        return False
    return any(str(n.target) in IMAGES and n.args[0] in inputs for n in plain)


def turned(value: Any) -> Any:
    """A batch of images or volumes with the channels last in memory; all else as it is."""
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.dim() not in (4, 5):
        return value
    layout = torch.channels_last if value.dim() == 4 else torch.channels_last_3d
    return value.contiguous(memory_format=layout)
