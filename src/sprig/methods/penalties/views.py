"""What can be seen of a shrunk network: survival by layer, coefficients against sizes, accuracy at other cuts, ranks.

Every view is a list of plain rows, which a run keeps in its log and a report draws.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sprig.core.errors import InputError
from sprig.core.types import device_of
from sprig.methods.penalties.coefficients import best
from sprig.methods.penalties.group_halo import GroupHalo
from sprig.methods.penalties.halo import Halo
from sprig.methods.penalties.shrinker import Shrinker
from sprig.training.feed import feed

Row = dict[str, Any]
SHARES = (0.5, 0.4, 0.3, 0.2, 0.15, 0.1, 0.07, 0.05, 0.03, 0.02, 0.01)
POINTS = 240  # of a law
SEEN = 64  # positions of a feature map per batch that a covariance is made of
ENERGY = 0.99
FIRST = 32  # eigenvalues that are kept as they are
LAYERS = (nn.Linear, nn.modules.conv._ConvNd)


def survival(masks: Mapping[str, Tensor]) -> list[Row]:
    """Per masked tensor, as it was trained: the share of weights that stay, its rows, and how many rows are empty.

    >>> survival({"a": torch.tensor([[True, False], [False, False]])})
    [{'name': 'a', 'kept': 0.25, 'weights': 4, 'rows': 2, 'empty': 1}]
    """
    return [
        {
            "name": name,
            "kept": float(mask.double().mean()),
            "weights": mask.numel(),
            "rows": len(mask),
            "empty": int((~mask.reshape(len(mask), -1).any(1)).sum()),
        }
        for name, mask in masks.items()
    ]


@torch.no_grad()
def law(shrinker: Shrinker) -> tuple[dict[str, float], ...]:
    """Sizes of weights (or units) with their coefficients, and what the formula gives where there is one.

    Picked evenly by rank, from the smallest size that is not zero to the largest.
    """
    penalty: Any = shrinker.penalty
    if not isinstance(penalty, Halo | GroupHalo):
        return ()
    if isinstance(penalty, GroupHalo):
        sizes = penalty.sizes(shrinker.weights)
    else:
        sizes = torch.cat([w.abs().flatten() for w in shrinker.weights])
    found = penalty.coefficients(shrinker.weights, shrinker.state)
    coefficients = torch.cat([c.flatten() for c in found])
    order = sizes.argsort()
    order = order[sizes[order] > 0]
    if not len(order):
        return ()
    picked = order[torch.linspace(0, len(order) - 1, min(POINTS, len(order))).round().long()]
    rows = [
        {"size": float(s), "coefficient": float(c)}
        for s, c in zip(sizes[picked], coefficients[picked])
    ]
    if penalty.psi + penalty.decay > 0 and penalty.budget == 0 and not penalty.square:
        for row, value in zip(rows, best(sizes[picked].double(), penalty).tolist()):
            row["formula"] = value
    return tuple(rows)


def sweep(
    again: Callable[[float], nn.Module],
    judge: Callable[[nn.Module], float],
    shares: Sequence[float] = SHARES,
) -> list[Row]:
    """What the trained network is worth when other shares of it stay, each cut straight from it.

    Shares so small that a layer would be left with nothing are left out.
    """
    rows = []
    for share in shares:
        with suppress(InputError):
            rows.append({"kept": share, "quality": judge(again(share))})
    return rows


@torch.no_grad()
def spectrum(model: nn.Module, batches: Iterable[Any]) -> dict[str, Tensor]:
    """By layer the eigenvalues of the covariance of its outputs, as shares of their sum, largest first.

    Outputs are those of the convolution or linear layer itself, before any norm; of a feature map some positions are
    taken, the same in every call. Layers that put out a constant are left out.
    """
    layers = {n: m for n, m in model.named_modules() if isinstance(m, LAYERS)}
    sums: dict[str, tuple[int, Tensor, Tensor]] = {}

    def watch(name: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
        flat = output.detach().double()
        flat = flat.flatten(2).movedim(1, 2) if flat.ndim > 2 and _conv(module) else flat
        flat = flat.reshape(len(flat), -1, flat.shape[-1])
        generator = torch.Generator().manual_seed(0)
        picked = torch.randperm(flat.shape[1], generator=generator)[:SEEN].to(flat.device)
        rows = flat[:, picked].reshape(-1, flat.shape[-1])
        count, total, square = sums.get(name, (0, rows.new_zeros(()), rows.new_zeros(())))
        sums[name] = (count + len(rows), total + rows.sum(0), square + rows.T @ rows)

    handles = [m.register_forward_hook(partial(watch, n)) for n, m in layers.items()]
    training = model.training
    try:
        model.eval()
        for args, kwargs, _ in feed(batches, device_of(model)):
            model(*args, **kwargs)
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    found = {}
    for name, (count, total, square) in sums.items():
        mean = total / count
        values = torch.linalg.eigvalsh(square / count - torch.outer(mean, mean)).flip(0)
        values = values.clamp_min(0)
        if float(values.sum()) > 1e-12 * float(square.diagonal().sum() / count):
            found[name] = values / values.sum()
    return found


def _conv(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.conv._ConvNd)


def spectra(models: Mapping[str, nn.Module], batches: Sequence[Any]) -> list[Row]:
    """Rows of `spectrum` for several states of one network: eigenvalues, and how many hold 99% of the energy."""
    return [
        {
            "state": state,
            "name": name,
            "width": len(shares),
            "rank": rank(shares),
            "shares": [float(f"{v:.3g}") for v in shares[:FIRST].tolist()],
        }
        for state, model in models.items()
        for name, shares in spectrum(model, batches).items()
    ]


def rank(shares: Tensor, energy: float = ENERGY) -> int:
    """How many of the largest shares it takes to hold so much of the sum.

    >>> rank(torch.tensor([0.9, 0.08, 0.015, 0.005]))
    3
    """
    return min(len(shares), int((shares.cumsum(0) < energy - 1e-12).sum()) + 1)
