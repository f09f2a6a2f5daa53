"""Rows for products of computed tensors: attention, whether fused, written out or as an einsum.

Letters as in einsum. Labels may vary along letters that are summed (inner dimensions), along letters that both
operands and the result share (heads), and along letters of one operand (a value's features). Where a tensor varies
along heads *and* inner dimensions, heads are the units, unless the module is one of `Flow.inner`.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import fx

from sprig.core.ops.contraction import addmm, linear_of, linear_transposed, multiplied
from sprig.core.ops.flow import Flow, Labels, module_of
from sprig.core.ops.notes import NumberNote, ProductNote
from sprig.core.ops.pointwise import meet

FIXED = "channels meet a tensor that cannot be cut"


@dataclass
class Side:
    """One operand: its letters, and its labels with one dimension per letter."""

    letters: str
    labels: Labels

    def along(self) -> str:
        """Letters along which the labels vary."""
        return "".join(c for c, s in zip(self.letters, self.labels.shape, strict=True) if s > 1)

    def dims(self, letters: str) -> list[int]:
        return [self.letters.index(c) for c in letters if c in self.letters]

    def keep_whole(self, flow: Flow, letters: str, node: fx.Node, reason: str) -> None:
        self.labels = flow.whole(self.labels, self.dims(letters), node, reason)

    def placed(self, letters: str) -> Labels:
        """The labels with one dimension per letter of `letters`, in that order."""
        order = [self.letters.index(c) for c in letters if c in self.letters]
        moved = np.transpose(
            self.labels, order + [d for d in range(self.labels.ndim) if d not in order]
        )
        moved = moved.reshape(moved.shape[: len(order)])
        sizes = iter(moved.shape)
        return moved.reshape([next(sizes) if c in self.letters else 1 for c in letters])


def contract(
    flow: Flow,
    node: fx.Node,
    a: Side,
    b: Side,
    out: str,
    size: dict[str, int],
    *,
    weight: str = "",
) -> Labels:
    """Labels of the product of two operands summed over the letters that are not in `out`."""
    summed = "".join(c for c in a.letters if c in b.letters and c not in out)
    shared = "".join(c for c in a.letters if c in b.letters and c in out)
    for side in (a, b):
        lonely = "".join(c for c in side.letters if c not in out and c not in summed)
        side.keep_whole(flow, lonely, node, "reduced over the channels")
        if _both(side.along(), summed) and _both(side.along(), out):
            inner = module_of(node) in flow.inner
            side.keep_whole(flow, out if inner else summed, node, FIXED)
    _free_letters(flow, node, a, b)
    _shared_letters(flow, node, a, b, shared, size)
    lines = []
    if _both(a.along(), summed) or _both(b.along(), summed):
        for side, other in ((a, b), (b, a)):
            if _both(side.along(), summed) and not _both(other.along(), summed):
                side.keep_whole(flow, side.along(), node, FIXED)
        if _both(a.along(), summed) and _both(b.along(), summed):
            left, right = a.placed(summed), b.placed(summed)
            flow.unite(left, right, FIXED)
            lines.append(np.broadcast_to(left, [size[c] for c in summed]).reshape(-1))
    first = np.zeros([1] * len(out), dtype=np.int64) if _both(a.along(), summed) else a.placed(out)
    second = np.zeros([1] * len(out), dtype=np.int64) if _both(b.along(), summed) else b.placed(out)
    if first.any() and second.any():
        flow.unite(first, second, FIXED)
    result = np.where(
        np.broadcast_to(first, _wide(first, second)) > 0, *np.broadcast_arrays(first, second)
    )
    lines = [line for line in (result.reshape(-1), *lines) if len(line) > 1]
    if flow.counting:
        macs = math.prod(size[c] for c in dict.fromkeys(a.letters + b.letters + out)) / flow.batch
        flow.products.append(ProductNote(node, macs, lines, weight))
    return flow.compact(result)


def _both(a: str, b: str) -> str:
    return "".join(c for c in a if c in b)


def _wide(a: Labels, b: Labels) -> tuple[int, ...]:
    return tuple(max(x, y) for x, y in zip(a.shape, b.shape, strict=True))


def _free_letters(flow: Flow, node: fx.Node, a: Side, b: Side) -> None:
    """Channels of both operands in one result, e.g. many heads that share one value: one side's must stay.

    The right side's do, so that heads leave; where heads stay (`Flow.inner`), the left side's.
    """
    free = ["".join(c for c in s.along() if c not in o.letters) for s, o in ((a, b), (b, a))]
    if free[0] and free[1]:
        inner = module_of(node) in flow.inner
        side, letters = (a, free[0]) if inner else (b, free[1])
        side.keep_whole(flow, letters, node, "channels meet channels")


def _shared_letters(
    flow: Flow, node: fx.Node, a: Side, b: Side, shared: str, size: dict[str, int]
) -> None:
    """Along a letter that both have, both must be labelled, or neither."""
    for side, other in ((a, b), (b, a)):
        bare = "".join(
            c for c in _both(side.along(), shared) if c not in other.along() and size[c] > 1
        )
        side.keep_whole(flow, bare, node, FIXED)


def matmul(flow: Flow, node: fx.Node) -> Any:
    """matmul, mm, bmm of any number of dimensions."""
    x: Any = node.args[0]
    y: Any = node.args[1]
    if y in flow.params and len(flow.shape(y)) == 2:
        return linear_transposed(flow, node, x, y, None)
    if y in flow.turned:
        return linear_of(flow, node, x, flow.turned[y], None)
    if min(len(flow.shape(x)), len(flow.shape(y))) < 2:
        return addmm(flow, node)
    return _product(flow, node, x, y)


def _product(flow: Flow, node: fx.Node, x: Any, y: Any) -> Labels:
    dims = max(len(flow.shape(x)), len(flow.shape(y)))
    names = "abcdefgh"[: dims - 2]
    size: dict[str, int] = {}
    sides = []
    note_times(flow, node, x, y)
    for arg, last in ((x, "mk"), (y, "kn")):
        shape = _unlike(flow, arg)
        letters = (names + last)[dims - len(shape) :]
        sides.append(_side(flow.labels(arg), letters, shape, size, flow.shape(arg)))
    full, weight = _full(size, names + "mkn"), multiplied(flow, (x, y))
    return contract(flow, node, sides[0], sides[1], names + "mn", full, weight=weight)


def _unlike(flow: Flow, node: fx.Node) -> tuple[int, ...]:
    """The shape, with 1 for dimensions before the last two along which a tensor repeats itself, e.g. one shared key."""
    shape = flow.shape(node)
    return (*flow.extent(node)[:-2], *shape[-2:])


def note_times(flow: Flow, node: fx.Node, x: fx.Node, y: fx.Node) -> None:
    """Where one operand is repeated for every head of the other, the module may keep how many times that is."""
    for one, many in ((x, y), (y, x)):
        whole, unlike, labels = flow.shape(one), _unlike(flow, one), flow.labels(many)
        for back in range(3, min(len(whole), labels.ndim) + 1):
            length = labels.shape[-back]
            if flow.counting and unlike[-back] == 1 < whole[-back] == length:
                line = np.moveaxis(labels, -back, 0).reshape(length, -1)
                flow.numbers.append(NumberNote(module_of(node), length, line, "times"))


def _side(
    labels: Labels, letters: str, shape: tuple[int, ...], size: dict[str, int],
    whole: tuple[int, ...] | None = None,
) -> Side:  # fmt: skip
    """An operand without its dimensions of length 1, which are only broadcast. whole: its shape with repetitions."""
    keep = [d for d, s in enumerate(shape) if s > 1]
    size |= {letters[d]: s for d, s in enumerate(whole or shape) if s > 1}
    return Side("".join(letters[d] for d in keep), labels.reshape([labels.shape[d] for d in keep]))


def _full(size: dict[str, int], letters: str) -> dict[str, int]:
    return {c: size.get(c, 1) for c in letters}


def addmm_row(flow: Flow, node: fx.Node) -> Any:
    """addmm(bias, x, weight): a linear map whose weight stands the other way round, as in GPT-2."""
    bias: Any
    weight: Any
    bias, x, weight = node.args[:3]
    plain = bias in flow.params and not node.kwargs
    if plain and flow.shape(bias) == flow.shape(node)[-1:]:
        if weight in flow.params:
            return linear_transposed(flow, node, x, weight, bias, argument=1)
        if weight in flow.turned:
            return linear_of(flow, node, x, flow.turned[weight], bias, argument=1)
    return addmm(flow, node)


def baddbmm(flow: Flow, node: fx.Node) -> Any:
    found = _product(flow, node, node.args[1], node.args[2])
    return meet(flow, node, found, node.args[0])


def attention(flow: Flow, node: fx.Node) -> Any:
    """scaled_dot_product_attention(q, k, v, mask, dropout, causal, scale, enable_gqa)."""
    query, key, value = node.args[:3]
    for shared in (key, value):
        note_times(flow, node, query, shared)
    q, k, v = flow.shape(query), _unlike(flow, key), _unlike(flow, value)
    labels = [flow.labels(t) for t in (query, key, value)]
    if node.kwargs.get("enable_gqa") and q[-3] != k[-3] != 1:
        times = q[-3] // k[-3]
        for i in (1, 2):
            if labels[i].shape[-3] > 1:
                labels[i] = np.repeat(labels[i], times, axis=-3)
        k, v = ((*s[:-3], q[-3], *s[-2:]) for s in (k, v))
    names = "abcdefgh"[: len(q) - 2]
    size: dict[str, int] = {}
    sides = [
        _side(array, (names + last)[len(q) - len(shape) :], shape, size)
        for array, last, shape in zip(labels, ("me", "ne", "nf"), (q, k, v), strict=True)
    ]
    full = _full(size, names + "menf")
    scores = contract(flow, node, sides[0], sides[1], names + "mn", full)
    mask = node.args[3] if len(node.args) > 3 else node.kwargs.get("attn_mask")
    if isinstance(mask, fx.Node):
        scores = meet(flow, node, scores, mask, shape=tuple(full[c] for c in names + "mn"))
    scores = flow.whole(scores, [-1], node, "normalised over the channels")
    weights = _side(scores, names + "mn", tuple(full[c] for c in names + "mn"), {})
    return contract(flow, node, weights, sides[2], names + "mf", full)


def einsum(flow: Flow, node: fx.Node) -> Any:
    """An einsum of two operands without repeated letters or dots; others freeze."""
    equation = str(node.args[0]).replace(" ", "")
    operands: Any = node.args[1]
    inputs, arrow, out = equation.partition("->")
    terms = inputs.split(",")
    plain = all(len(set(t)) == len(t) for t in terms) and "." not in equation
    if len(terms) != 2 or not arrow or not plain:
        return addmm(flow, node)
    size: dict[str, int] = {}
    sides = [
        _side(flow.labels(arg), letters, flow.shape(arg), size)
        for arg, letters in zip(operands, terms, strict=True)
    ]
    full, weight = _full(size, "".join(terms)), multiplied(flow, operands)
    return contract(flow, node, sides[0], sides[1], out, full, weight=weight)


ROWS = {
    **dict.fromkeys(("matmul", "mm", "bmm"), matmul),
    "addmm": addmm_row,
    "baddbmm": baddbmm,
    "scaled_dot_product_attention": attention,
    "einsum": einsum,
}
