"""Which tokens of a padded batch count: read off the attention masks among a model's inputs.

An input named `attention_mask` (or `..._attention_mask`) of shape (batch, tokens) marks the rows of any tensor of
shape (batch, tokens, features). Where a model also takes `decoder_...` inputs, a layer with "decoder" in its name and
the model's answer go by the decoder's mask, the other layers by the plain one. Layers of a tower that sees (by their
names) have no tokens of a text. Everywhere else (no mask, another length, features pooled over the tokens, windows)
every row counts.
"""

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

Masks = Mapping[str, Tensor]  # by the input's name: (batch, tokens), True where a token counts

NAME, DECODER = "attention_mask", "decoder"
SIGHT = ("vision", "visual", "image", "pixel")


def token_masks(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Masks:
    """The masks of one batch; positional inputs go by the names in the model's signature.

    >>> import torch
    >>> list(token_masks(nn.Identity(), (), {"attention_mask": torch.tensor([[1, 0]])}).values())
    [tensor([[ True, False]])]
    """
    named = {**_names(model, args), **kwargs}
    found = {}
    for name, value in named.items():
        if name.endswith(NAME) and isinstance(value, Tensor) and value.dim() == 2:
            # additive masks have 0 where a token counts and a large negative number elsewhere
            additive = value.is_floating_point() and not bool((value > 0).any())
            found[name] = value == 0 if additive else value != 0
    if found and any(name.startswith(DECODER) for name in named):
        found.setdefault(f"{DECODER}_{NAME}", next(iter(found.values()))[:0])  # all of them count
    return found


def live_tokens(masks: Masks, x: Tensor, layer: str = "") -> Tensor | None:
    """(batch, tokens): which rows of `x` (batch, tokens, ...) count; None: all of them do.

    A mask of more samples than `x` has is cut to the first ones. Without a layer's name, that of the model's answer, a
    row counts if one of the masks that are asked says so.
    """
    if x.dim() < 3:
        return None
    asked: Iterable[str] = masks
    if f"{DECODER}_{NAME}" in masks:
        late = not layer or DECODER in layer
        asked = [name for name in masks if name.startswith(DECODER) == late]
    if any(word in layer for word in SIGHT):
        asked = [name for name in asked if name.startswith(SIGHT)]
    live = None
    for name in asked:
        mask = masks[name]
        if len(mask) >= len(x) and mask.shape[1] == x.shape[1]:
            here = mask[: len(x)].to(x.device)
            live = here if live is None else live | here
    return live


def blank(masks: Masks, outputs: Iterable[Tensor]) -> list[Tensor]:
    """The same tensors with zeros at padding, so that two networks cannot differ there."""
    out = []
    for t in outputs:
        live = live_tokens(masks, t)
        out.append(t if live is None else t * live.reshape(*live.shape, *[1] * (t.dim() - 2)))
    return out


def _names(model: nn.Module, args: tuple[Any, ...]) -> dict[str, Any]:
    """Positional inputs by name, as far as the signature tells."""
    if not args:
        return {}
    try:
        return dict(inspect.signature(model.forward).bind_partial(*args).arguments)
    except (TypeError, ValueError):
        return {}
