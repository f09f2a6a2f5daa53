"""Reference networks of the papers, for small images. One literal table: name → constructor.

Every constructor takes `in_channels` and `num_classes`; those with a linear layer over a flattened image
also take `image_size`. Weights are drawn from torch's global generator: seed it before building.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from torch import nn

from sprig.models.lenet import LeNet5, LeNet300100
from sprig.models.mobilenet_small import SmallMobileNetV2
from sprig.models.resnet_small import SmallResNet, resnet20, resnet56
from sprig.models.vgg_small import SmallVGG

REFERENCE: Mapping[str, Callable[..., nn.Module]] = MappingProxyType(
    {
        "lenet-300-100": LeNet300100,
        "lenet-5": LeNet5,
        "resnet20": resnet20,
        "resnet56": resnet56,
        "vgg16-bn": SmallVGG,
        "mobilenetv2-small": SmallMobileNetV2,
    }
)

__all__ = [
    "REFERENCE",
    "LeNet5",
    "LeNet300100",
    "SmallMobileNetV2",
    "SmallResNet",
    "SmallVGG",
    "resnet20",
    "resnet56",
]
