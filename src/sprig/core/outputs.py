"""What a model's answer is about, whatever container it comes in: a tensor, a tuple, a dict, an object with names."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

LOGITS = "logits"
BESIDE = (
    "past_key_values",
    "mems",
    "loss",
)  # what later calls or trainers want, not part of the answer


def logits_of(output: Any) -> Tensor | None:
    """The tensor that a container calls its logits.

    >>> import torch
    >>> logits_of({"logits": torch.zeros(2, 3)}).shape, logits_of(torch.zeros(2, 3))
    (torch.Size([2, 3]), None)
    """
    found = output.get(LOGITS) if isinstance(output, Mapping) else getattr(output, LOGITS, None)
    return found if isinstance(found, Tensor) else None


def answer_of(output: Any) -> Any:
    """Its logits, if it names them; else all that it gives, without caches for later calls and without a loss."""
    logits = logits_of(output)
    if logits is not None:
        return logits
    if isinstance(output, Mapping):
        return {k: v for k, v in output.items() if k not in BESIDE}
    return output
