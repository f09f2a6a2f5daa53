"""What a tool took from a network, read off the weights alone, and whether the rest still computes the same.

No tool is asked what it removed. Before it sees the network every element of a parameter is made different from all
others, so that what is left in the small one can be found again in the dense one. The dense network with everything
else set to zero is the masked one.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from sprig.core.tracing import distance, tensors_of

Row = dict[str, Any]
CLOSE = {"float64": 1e-8, "float32": 1e-4}  # relative


def distinct(model: nn.Module) -> nn.Module:
    """Moves equal float32 elements of one parameter apart by the smallest steps there are, in place."""
    lowest = torch.iinfo(torch.int32).min
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dtype != torch.float32 or parameter.numel() < 2:
                continue
            # floats as whole numbers in the same order: neighbours differ by one
            bits = parameter.detach().contiguous().view(torch.int32).flatten().long()
            rank, order = torch.where(bits < 0, lowest - bits, bits).sort(stable=True)
            step = torch.arange(len(rank))
            rank = (rank - step).cummax(0).values + step
            bits[order] = torch.where(rank < 0, lowest - rank, rank)
            parameter.copy_(bits.int().view(torch.float32).view(parameter.shape))
    return model


def left(dense: Tensor, small: Tensor) -> Tensor | None:
    """Which elements of `dense` are in `small`; None where `small` holds others, or one twice."""
    values, order = dense.detach().flatten().sort()
    wanted = small.detach().flatten()
    at = torch.searchsorted(values, wanted).clamp(max=len(values) - 1)
    if not torch.equal(values[at], wanted):
        return None
    found = torch.zeros(dense.numel(), dtype=torch.bool)
    found[order[at]] = True
    return found.view(dense.shape) if int(found.sum()) == small.numel() else None


def masked(dense: nn.Module, small: nn.Module) -> nn.Module | None:
    """The dense network without what `small` lacks; None where the weights of `small` are not its own."""
    twin = copy.deepcopy(dense)
    ours, theirs = dict(twin.named_parameters()), dict(small.named_parameters())
    if not set(theirs) <= set(ours):
        return None
    with torch.no_grad():
        for name, weight in ours.items():
            if name not in theirs:  # a whole layer left
                weight.zero_()
                continue
            stays = left(weight, theirs[name])
            if stays is None:
                return None
            weight.mul_(stays)
    return twin


def norms_see_only_what_stays(twin: nn.Module, dense: nn.Module, small: nn.Module) -> int:
    """Norms over channels of which some left compute over the others, as in the small network; how many."""
    count = 0
    theirs = dict(small.named_modules())
    own = dict(twin.named_modules())
    for name, module in dense.named_modules():
        weight, other = getattr(module, "weight", None), theirs.get(name)
        cut = getattr(other, "weight", None)
        over = "Norm" in type(module).__name__ and not isinstance(
            module, nn.modules.batchnorm._NormBase
        )
        if (
            not over
            or weight is None
            or cut is None
            or weight.dim() != 1
            or len(cut) == len(weight)
        ):
            continue
        stays = left(weight, cut)
        if stays is not None:
            where = stays.nonzero().flatten()
            first = isinstance(module, nn.GroupNorm) or type(module).__name__.endswith("2d")
            own[name].forward = _over(other, where, 1 if first else -1)
            count += 1
    return count


def _over(norm: Any, where: Tensor, dim: int) -> Any:
    def forward(x: Tensor) -> Tensor:
        y = norm(x.index_select(dim, where))
        return torch.zeros_like(x).index_copy(dim, where, y.to(x.dtype))

    return forward


def judge(dense: nn.Module, small: nn.Module, x: Tensor) -> Row:
    """`same`: "yes", "but for norms" (equal once norms leave out what left), "no", or "unknown"."""
    twin = masked(dense, small)
    if twin is None:
        return {"same": "unknown", "why": "its weights are not those of the dense network"}
    for precision in CLOSE:
        dtype = getattr(torch, precision)
        try:
            wide = x.to(dtype)
            big, cut, zero = (copy.deepcopy(m).to(dtype).eval() for m in (dense, small, twin))
            with torch.no_grad():
                whole, found, expected = big(wide), cut(wide), zero(wide)
                row: Row = {
                    "precision": precision,
                    "gap": distance(expected, found),
                    "moved": distance(whole, found),
                }
                row["same"] = "yes" if row["gap"] <= CLOSE[precision] else "no"
                if row["same"] == "no" and norms_see_only_what_stays(zero, dense, cut):
                    row["gap_norms"] = distance(zero(wide), found)
                    if row["gap_norms"] <= CLOSE[precision]:
                        row["same"] = "but for norms"
            return row
        except RuntimeError as error:  # the model may insist on its own precision
            said = str(error).split("\n")[0]
    return {"same": "unknown", "why": said[:150]}


def usable(dense: nn.Module, small: nn.Module, x: Tensor) -> str:
    """Runs, with outputs of the same shapes, on another number of images, and trains a step; else what went wrong."""
    with torch.no_grad():
        try:
            found = tensors_of(small.eval()(x))
        except Exception as error:
            return f"does not run: {said_by(error)}"
        wanted = tensors_of(dense.eval()(x))
        shapes = [[tuple(t.shape) for t in out] for out in (wanted, found)]
        if shapes[0] != shapes[1]:
            return f"outputs {shapes[1]}, those of the dense network {shapes[0]}"
        try:
            small(torch.cat([x, x[:1]]))
        except Exception as error:
            return f"does not run on another batch size: {said_by(error)}"
    try:
        twin = copy.deepcopy(small).train()
        torch.stack([o.square().mean() for o in tensors_of(twin(x))]).sum().backward()
        torch.optim.SGD([p for p in twin.parameters() if p.grad is not None], lr=1e-3).step()
    except Exception as error:
        return f"does not train: {said_by(error)}"
    return ""


def said_by(error: BaseException) -> str:
    """Class and first line of an exception."""
    text = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {text[:160]}"
