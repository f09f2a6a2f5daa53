"""What lies behind a consumer: the batch norm on its output, the addition to a stream, the activation after it."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from sprig.core.replay import Replay

PASSING = ("dropout", "dropout_", "contiguous", "clone", "alias")
FAINT = 0.05  # a norm that scales an output by less than this share of its peers cannot carry a correction


@dataclass(frozen=True, eq=False)
class Scale:
    """A batch norm in use as the map z = slope y + shift, per output."""

    slope: Tensor  # (O,); 1 where the norm is too faint
    shift: Tensor
    usable: Tensor  # (O,) False where it is

    @staticmethod
    def of(norm: str | None, eps: float, weights: Mapping[str, Tensor]) -> "Scale | None":
        """None where there is no norm."""
        if norm is None:
            return None
        mean, var = weights[f"{norm}.running_mean"], weights[f"{norm}.running_var"]
        slope = (var + eps).rsqrt()
        if f"{norm}.weight" in weights:
            slope = slope * weights[f"{norm}.weight"]
        offset = weights.get(f"{norm}.bias", torch.zeros_like(mean))
        usable = slope.abs() > FAINT * slope.abs().median()
        slope = torch.where(usable, slope, torch.ones_like(slope))
        return Scale(slope, offset - mean * slope, usable)

    def undone(self, z: Tensor, own: Tensor) -> Tensor:
        """y in front of the norm whose image is z; `own` where the norm is too faint."""
        return torch.where(self.usable, (z - self.shift) / self.slope, own)


@dataclass(frozen=True, eq=False)
class Seam:
    """Where a consumer's output, perhaps through a batch norm, is added to something that is known before it."""

    add: int  # index of the addition
    other: fx.Node
    norm: str | None
    eps: float

    def before_norm(self, own: Tensor, wanted: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        """Targets in front of the norm whose image behind it is `wanted`; where the norm is too faint, `own`."""
        scale = Scale.of(self.norm, self.eps, weights)
        return wanted if scale is None else scale.undone(wanted, own)


def op_of(node: fx.Node) -> str:
    """The name of an ATen operation, without its overload; empty for anything else."""
    name = str(node.target)
    return name.split(".")[1] if name.startswith("aten.") else ""


def find_seam(replay: Replay, name: str) -> Seam | None:
    """The addition behind a consumer, if its output alone goes there and the other side is already known."""
    at = replay.index[name]
    node, norm, eps = replay.nodes[at], None, 0.0
    while len(node.users) == 1:
        user = next(iter(node.users))
        op = op_of(user)
        if op == "batch_norm" and norm is None and user.args[0] is node and not user.args[5]:
            named = replay.tensor_of.get(user.args[3], "")
            norm, eps = named.rpartition(".")[0] or None, float(user.args[7])
            if norm is None:
                return None
        elif op in ("add", "add_"):
            sides = [a for a in user.args[:2] if isinstance(a, fx.Node)]
            other = [a for a in sides if a is not node]
            scaled = user.kwargs.get("alpha", 1) != 1 or len(user.args) > 2
            if len(sides) != 2 or len(other) != 1 or scaled:
                return None
            same = tuple(other[0].meta["val"].shape) == tuple(node.meta["val"].shape)
            if replay.index[other[0].name] >= at or not same:
                return None
            return Seam(replay.index[user.name], other[0], norm, eps)
        elif op not in PASSING:
            return None
        node = user
    return None
