"""How well a network does on data: accuracy by labels, agreement with the dense one."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def quality(model: "nn.Module", dense: "nn.Module | None", data: Any) -> dict[str, float]:
    """The figures of a before/after table, by name; without `dense` there is no agreement.

    >>> import torch
    >>> same = torch.nn.Identity()
    >>> quality(same, same, [(torch.eye(3), torch.tensor([0, 1, 0]))])["agreement"]
    1.0
    """
    from sprig.training import accuracy, agreement

    found: dict[str, float] = {}
    if labelled(data):
        found["accuracy"] = accuracy(model, data)
    if dense is None:
        return found
    answer = agreement(dense, model, data)
    named = {
        "agreement": answer.top1,
        "agreement_confident": answer.confident_top1,
        "kl": answer.kl,
    }
    return found | {name: value for name, value in named.items() if value is not None}


def labelled(data: Any) -> bool:
    """Whether the batches carry targets."""
    from sprig.core.batches import unpack

    return unpack(next(iter(data)))[2] is not None


def measure(model: "nn.Module", dense: "nn.Module | None", graph: Any, data: Any) -> Any:
    """Cost of `model`, counted on its own graph, and its quality where there is data."""
    from sprig.core.cost import cost
    from sprig.core.types import Measures

    total = cost(graph)
    return Measures(
        macs=total["macs"],
        params=total["params"],
        bytes=total["bytes"],
        quality=quality(model, dense, data) if data is not None else {},
    )
