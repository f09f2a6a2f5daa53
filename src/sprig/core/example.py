"""The inputs that a model is traced with: positional, by name, or both; and how a run folder keeps them."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from sprig.core.errors import InputError, StoreError

Example = tuple[Any, ...] | Mapping[str, Any]  # what users give: a mapping holds keyword arguments
Inputs = tuple[tuple[Any, ...], dict[str, Any]]

PLAIN = (bool, int, float, str, type(None))  # what JSON keeps as it is


def inputs_of(example: Example, kwargs: Mapping[str, Any] | None = None) -> Inputs:
    """Positional and keyword arguments of one call.

    >>> inputs_of({"input_ids": 1, "attention_mask": 2})
    ((), {'input_ids': 1, 'attention_mask': 2})
    >>> inputs_of((1,), {"mask": 2})
    ((1,), {'mask': 2})
    """
    if isinstance(example, Mapping):
        twice = sorted(set(example) & set(kwargs or {}))
        if twice:
            raise InputError(
                f"example_inputs and kwargs both give {', '.join(twice)}; give it once"
            )
        return (), {**{str(k): v for k, v in example.items()}, **(kwargs or {})}
    if isinstance(example, list):
        example = tuple(example)
    if not isinstance(example, tuple):
        raise InputError(
            f"example_inputs is a {type(example).__name__}, expected a tuple of the model's arguments, e.g. (x,), "
            "or a dict of its keyword arguments"
        )
    return example, dict(kwargs or {})


def per_sample(leaf: Any, batch: int) -> bool:
    """Whether a tensor has one entry per sample (a table shared by all samples has not)."""
    return isinstance(leaf, Tensor) and leaf.dim() > 0 and leaf.shape[0] == batch


def pack(example: Example) -> tuple[dict[str, Tensor], Any]:
    """Tensors by name, positional ones by number, and a skeleton of JSON that says where each goes.

    >>> import torch
    >>> tensors, form = pack({"x": torch.ones(2), "fast": True})
    >>> list(tensors), form
    (['x'], {'args': {'tuple': []}, 'kwargs': {'dict': {'x': {'tensor': 'x'}, 'fast': True}}})
    """
    args, kwargs = inputs_of(example)
    tensors: dict[str, Tensor] = {}

    def down(value: Any, name: str) -> Any:
        if isinstance(value, Tensor):
            tensors[name] = value
            return {"tensor": name}
        if isinstance(value, PLAIN):
            return value
        if isinstance(value, list | tuple):
            inner = [down(v, f"{name}.{i}" if name else f"{i:03d}") for i, v in enumerate(value)]
            return {"tuple" if isinstance(value, tuple) else "list": inner}
        if isinstance(value, Mapping):
            return {
                "dict": {str(k): down(v, f"{name}.{k}" if name else k) for k, v in value.items()}
            }
        raise StoreError(
            f"example input {name} is a {type(value).__name__}, which a run folder cannot hold; give tensors, "
            "numbers, strings, and lists, tuples or dicts of them"
        )

    return tensors, {"args": down(args, ""), "kwargs": down(kwargs, "")}


def restore(tensors: Mapping[str, Tensor], form: Any) -> Example:
    """What `pack` took apart. Without a form, the tensors are positional, in the order of their names."""
    if form is None:
        return tuple(tensors[name] for name in sorted(tensors))

    def up(node: Any) -> Any:
        if not isinstance(node, dict):
            return node
        (kind, body), *_ = node.items()
        if kind == "tensor":
            return tensors[body]
        if kind == "dict":
            return {k: up(v) for k, v in body.items()}
        return tuple(map(up, body)) if kind == "tuple" else [up(v) for v in body]

    try:
        return up(form["kwargs"]) or up(form["args"])  # type: ignore[no-any-return]
    except (KeyError, AttributeError) as error:
        raise StoreError(
            f"the example inputs of the run are incomplete: {error} is missing"
        ) from error


def leading(tensors: Sequence[Tensor]) -> int:
    """How many samples inputs hold: the length of the first that has two dimensions or more; else of the first.

    One row of numbers (positions, say) beside many of the same shape is the same for all samples, and not asked.

    >>> import torch
    >>> leading([torch.arange(5)[None], torch.zeros(3, 5, dtype=torch.int64)])
    3
    """
    wide = [t for t in tensors if t.dim() > 1]
    whole = {tuple(t.shape[1:]) for t in wide if not t.is_floating_point() and t.shape[0] > 1}
    own = [
        t
        for t in wide
        if t.shape[0] > 1 or t.is_floating_point() or tuple(t.shape[1:]) not in whole
    ]
    found = next(iter(own or [t for t in tensors if t.dim()]), None)
    return 1 if found is None else int(found.shape[0])


def samples_of(example: Example) -> int:
    """How many samples the example holds.

    >>> import torch
    >>> samples_of({"scale": torch.ones(1), "x": torch.ones(2, 8)})
    2
    """
    return leading([t for t in pytree.tree_leaves(inputs_of(example)) if isinstance(t, Tensor)])


def at_batch(example: Example, batch: int) -> Inputs:
    """The example's first sample, as often as a batch has samples.

    >>> import torch
    >>> at_batch((torch.tensor([3.0, 4.0]),), 3)[0]
    (tensor([3., 3., 3.]),)
    """
    given = samples_of(example)

    def fit(leaf: Any) -> Any:
        if not per_sample(leaf, given):
            return leaf
        return leaf[:1].expand(batch, *leaf.shape[1:]).contiguous()

    args, kwargs = pytree.tree_map(fit, inputs_of(example))
    return args, kwargs
