"""What a run's before/after table says of a model: its cost, counted on its graph, and its quality on data."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def labelled(data: Any) -> bool:
    """Whether the batches carry targets."""
    from sprig.core.batches import unpack

    return unpack(next(iter(data)))[2] is not None


def measure(model: "nn.Module", dense: "nn.Module | None", graph: Any, data: Any) -> Any:
    """Cost of `model`, counted on its own graph, and its quality where there is data."""
    from sprig.core.cost import cost
    from sprig.core.types import Measures
    from sprig.workflow import quality

    total = cost(graph)
    return Measures(
        macs=total["macs"],
        params=total["params"],
        bytes=total["bytes"],
        quality=quality(model, dense, data) if data is not None else {},
    )
