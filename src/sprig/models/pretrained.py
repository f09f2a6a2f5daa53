"""A cut transformer as a folder that transformers itself loads, where a configuration can express its widths.

A configuration has one number per kind of width (`intermediate_size`, `num_attention_heads` ...) for all layers, or,
in a few models, a list with one per layer. Which dimensions follow which number is found out by building the network
once per number with that number doubled, without weights; the number that fits is then read off the shapes of the cut
model. A cut that took more from one layer than from another fits no single number and is refused: cut with `alike`,
or keep it as a run folder (`sprig.load`).
"""

import copy
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sprig.core.errors import InputError

WIDTHS = (
    "intermediate_size", "ffn_hidden_size", "hidden_dim", "d_ff", "n_inner", "ffn_dim", "encoder_ffn_dim",
    "decoder_ffn_dim", "num_key_value_heads", "num_attention_heads", "num_heads", "n_heads",
    "n_head", "encoder_attention_heads", "decoder_attention_heads",
)  # fmt: skip

Shapes = dict[str, tuple[int, ...]]


def save_pretrained(model: nn.Module, folder: str | os.PathLike[str]) -> Path:
    """Write `config.json` and safetensors; `from_pretrained` and `hf:FOLDER` load them without sprig.

    Raises InputError, naming a tensor, if no configuration of the model's class has its shapes.
    """
    config = fitted_config(model)
    twin: Any = copy.deepcopy(model)
    twin.config = config
    twin.save_pretrained(Path(folder))
    return Path(folder)


def fitted_config(model: nn.Module) -> Any:
    """The configuration of a model of these widths; the model's own still speaks of the dense one."""
    config: Any = copy.deepcopy(getattr(model, "config", None))
    if config is None or not hasattr(type(model), "_from_config"):
        raise InputError(
            f"{type(model).__name__} is no model of transformers: it has no configuration"
        )
    wanted = _shapes(model)
    dense = _shapes(_empty(model, config))
    for place, value in list(_widths(config)):
        place.put(2 * value)
        try:
            doubled = _shapes(_empty(model, config))
        except (
            Exception
        ):  # e.g. heads that do not divide the stream: this number cannot change alone
            place.put(value)
            continue
        fits = {
            value * have[d] / base[d]
            for name, base in dense.items()
            if (have := wanted.get(name)) is not None and len(have) == len(base)
            for d in range(len(base))
            if doubled[name][d] == 2 * base[d]
        }
        whole = len(fits) == 1 and float(next(iter(fits))).is_integer()
        place.put(int(fits.pop()) if whole else value)
    try:
        found = _shapes(_empty(model, config))
    except Exception:  # numbers that fit one by one and not together
        found = {}
    for name, shape in wanted.items():
        if found.get(name) != shape:
            raise InputError(
                f"no configuration has the widths of this model: {name} is {shape}, with one width for all layers it "
                f"is {found.get(name)}; keep it as a run folder (result.save, sprig.load)"
            )
    return config


@dataclass(frozen=True)
class _Place:
    """Where a width stands: in a configuration, under a name, of one layer (None: of all)."""

    owner: Any
    key: str
    layer: int | None = None

    def put(self, value: int) -> None:
        if self.layer is None:
            setattr(self.owner, self.key, value)
        else:
            each = list(getattr(self.owner, self.key))
            each[self.layer] = value
            setattr(self.owner, self.key, each)


def _widths(config: Any) -> Iterator[tuple[_Place, int]]:
    """The widths of a configuration and of those inside it: where, how much."""
    own = [config, *(v for v in vars(config).values() if hasattr(v, "to_dict"))]
    for owner in own:
        if getattr(owner, "n_inner", 0) is None:  # GPT-2's way of saying four times the stream
            owner.n_inner = 4 * owner.n_embd
        for key in WIDTHS:
            found = vars(owner).get(key)
            several = isinstance(found, list | tuple)
            for layer, value in enumerate(found if several else [found]):
                if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                    yield _Place(owner, key, layer if several else None), value


def _empty(model: nn.Module, config: Any) -> nn.Module:
    """A model of the same class without weights."""
    kind: Any = type(model)
    with torch.device("meta"):
        made: nn.Module = kind._from_config(copy.deepcopy(config))
    return made


def _shapes(model: nn.Module) -> Shapes:
    return {name: tuple(t.shape) for name, t in model.state_dict().items()}
