"""The reference networks: their published sizes, their shapes, their options."""

import pytest
import torch
from torch import nn

from sprig.models import REFERENCE, LeNet5, SmallResNet, SmallVGG, resnet20


def count(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", list(REFERENCE))
def test_every_network_answers_for_small_images(name):
    torch.manual_seed(0)
    model = REFERENCE[name](in_channels=1, num_classes=7).eval()
    size = 32 if name == "vgg16-bn" else 28
    assert model(torch.randn(2, 1, size, size)).shape == (2, 7)


def test_sizes_are_the_published_ones():
    assert count(REFERENCE["lenet-300-100"]()) == 266_610
    assert count(REFERENCE["lenet-5"]()) == 431_080
    # He et al. 2016, table 6: 0.27 and 0.85 million with parameter-free shortcuts
    assert round(count(resnet20(shortcut="A")) / 1e6, 2) == 0.27
    assert round(count(REFERENCE["resnet56"](shortcut="A")) / 1e6, 2) in (0.85, 0.86)
    convs = sum(isinstance(m, nn.Conv2d) for m in resnet20(shortcut="A").modules())
    assert convs == 19
    assert sum(isinstance(m, nn.Conv2d) for m in SmallVGG().modules()) == 13


def test_small_mobilenet_is_made_of_inverted_residuals():
    model = REFERENCE["mobilenetv2-small"](in_channels=1)
    depthwise = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert [m.groups for m in depthwise] == [16, 64, 96, 96, 128, 128, 256]  # four times the input
    assert all(m.groups == m.in_channels == m.out_channels for m in depthwise)
    blocks = [m for m in model.features if hasattr(m, "add")]
    assert [b.add for b in blocks] == [True, False, True, False, True, False, True]
    x = torch.randn(2, 24, 14, 14)
    kept = blocks[2].eval()
    assert torch.allclose(kept(x), x + kept.layers(x))


def test_padding_shortcut_keeps_the_pixels_and_adds_zeros():
    model = SmallResNet(1, shortcut="A", width=4)
    x = torch.randn(2, 4, 8, 8)
    y = model.layer2[0].shortcut(x)
    assert y.shape == (2, 8, 4, 4)
    assert torch.equal(y[:, 2:6], x[:, :, ::2, ::2])
    assert y[:, :2].abs().sum() == 0
    assert y[:, 6:].abs().sum() == 0


def test_the_same_seed_gives_the_same_weights():
    models = []
    for _ in range(2):
        torch.manual_seed(4)
        models.append(resnet20(in_channels=1, width=8))
    for a, b in zip(models[0].parameters(), models[1].parameters()):
        assert torch.equal(a, b)


def test_other_sizes_and_refusals():
    assert LeNet5(image_size=32)(torch.zeros(1, 1, 32, 32)).shape == (1, 10)
    assert SmallVGG(in_channels=1, image_size=28, width=4).eval()(
        torch.zeros(1, 1, 28, 28)
    ).shape == (1, 10)
    with pytest.raises(ValueError, match="shortcut is 'C'"):
        SmallResNet(1, shortcut="C")
    with pytest.raises(ValueError, match="at least 16"):
        LeNet5(image_size=12)
    with pytest.raises(ValueError, match="at least 16"):
        SmallVGG(image_size=8)
