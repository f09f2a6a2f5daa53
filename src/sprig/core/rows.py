"""The rows that a consumer multiplies with its flattened weight, sampled before anything is unfolded."""

from collections.abc import Sequence
from functools import reduce
from itertools import product
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from sprig.core.errors import InputError


class Rows(NamedTuple):
    """Sampled rows of a consumer's input and where they were taken."""

    x: Tensor  # (P, D); columns ordered as `weight.flatten(1)`: channel, then kernel position
    where: Tensor  # (P,) ascending positions in (sample, *output size) flattened
    of: int  # how many positions there were to draw from


def rows(
    x: Tensor,
    kind: Literal["conv", "linear"],
    *,
    kernel: Sequence[int] = (),
    stride: Sequence[int] = (),
    padding: Sequence[int] = (),
    dilation: Sequence[int] = (),
    extra: Sequence[int] = (),
    transposed: bool = False,
    limit: int | None = None,
    generator: torch.Generator | None = None,
    live: Tensor | None = None,
) -> Rows:
    """The rows that a consumer multiplies with its flattened weight, at most `limit` of them.

    Positions are drawn without replacement, all equally likely, *before* anything is unfolded, so cost and
    memory go with the sample. Convolutions of any dimension, zero padding. For a grouped convolution give
    the channels of one conv group. A `transposed` one (`extra`: its output_padding) has zeros where a kernel
    position meets no input, so that its weight, outputs first, acts as an ordinary matrix. `live` marks the rows of
    a linear consumer that may be taken: (batch, tokens), False at padding. Take the targets at the same places with
    `targets_at`.

    >>> image = torch.arange(16.0).reshape(1, 1, 4, 4)
    >>> rows(image, "conv", kernel=(2, 2), stride=(2, 2)).x
    tensor([[ 0.,  1.,  4.,  5.],
            [ 2.,  3.,  6.,  7.],
            [ 8.,  9., 12., 13.],
            [10., 11., 14., 15.]])
    """
    x = x.detach()
    if kind == "linear":
        flat = x.reshape(-1, x.shape[-1])
        where = _sample(len(flat), limit, generator, live)
        of = len(flat) if live is None else int(live.sum())
        return Rows(flat[where] if len(where) < len(flat) else flat, where.to(x.device), of)
    space = x.shape[2:]
    dims = len(space)
    kernel = tuple(kernel) or (1,) * dims
    stride, dilation = tuple(stride) or (1,) * dims, tuple(dilation) or (1,) * dims
    padding = tuple(padding) or (0,) * dims
    extra = tuple(extra) or (0,) * dims
    if not len(kernel) == len(stride) == len(dilation) == len(padding) == len(extra) == dims:
        raise InputError(
            f"a convolution over {dims} dimensions needs {dims} numbers each for kernel, stride, padding "
            f"and dilation; found {kernel}, {stride}, {padding}, {dilation}"
        )
    sizes = zip(space, padding, dilation, kernel, stride, extra, strict=True)
    out = [
        (s - 1) * t - 2 * p + d * (k - 1) + e + 1
        if transposed
        else (s + 2 * p - d * (k - 1) - 1) // t + 1
        for s, p, d, k, t, e in sizes
    ]
    if min(out) < 1:
        raise InputError(f"an input of size {tuple(space)} is too small for a kernel of {kernel}")
    of = len(x) * reduce(int.__mul__, out)
    where = _sample(of, limit, generator).to(x.device)
    pixels = x.movedim(1, -1)  # a view: only the sampled places are ever copied
    back = [-p for p in padding] if transposed else padding
    sample, corner = _corners(where, out, (1,) * dims if transposed else stride, back)
    taps = []
    for tap in product(*(range(k) for k in kernel)):
        index, inside = [sample], torch.ones_like(where, dtype=torch.bool)
        for c, t, d, s, step in zip(corner, tap, dilation, space, stride, strict=True):
            at = c + t * d
            if transposed:  # input i spreads to i * step - padding + t * d
                far = c - t * d
                at = far // step
                inside &= far % step == 0
            inside &= (at >= 0) & (at < s)
            index.append(at.clamp(0, s - 1))
        picked = pixels[tuple(index)]
        taps.append(picked if bool(inside.all()) else picked.masked_fill(~inside[:, None], 0))
    columns = taps[0] if len(taps) == 1 else torch.stack(taps, -1).flatten(1)
    return Rows(columns, where, of)


def targets_at(y: Tensor, where: Tensor, kind: Literal["conv", "linear"]) -> Tensor:
    """The rows (P, O) of an output (N, O, ...) of a convolution, or (..., O) of a linear map, at `where`."""
    last = y.detach().movedim(1, -1) if kind == "conv" else y.detach()
    if last.ndim == 2:
        return last[where]
    return last[torch.unravel_index(where, last.shape[:-1])]


def _sample(
    total: int,
    limit: int | None,
    generator: torch.Generator | None,
    live: Tensor | None = None,
) -> Tensor:
    if live is not None:
        places = live.detach().cpu().flatten().nonzero()[:, 0]
        return places[_sample(len(places), limit, generator)]
    if limit is None or limit >= total:
        return torch.arange(total)
    if generator is None:
        raise InputError(
            "sampling positions needs a torch.Generator, so that a seed fixes the sample"
        )
    return torch.randperm(total, generator=generator)[:limit].sort().values


def _corners(
    where: Tensor, out: Sequence[int], stride: Sequence[int], padding: Sequence[int]
) -> tuple[Tensor, list[Tensor]]:
    """Sample number, and first input coordinate per dimension, of each output position."""
    corner: list[Tensor] = []
    for size, step, pad in zip(reversed(out), reversed(stride), reversed(padding), strict=True):
        corner.insert(0, where % size * step - pad)
        where = where // size
    return where, corner
