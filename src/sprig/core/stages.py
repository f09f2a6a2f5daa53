"""One value, made of records, tensors and containers, as one safetensors file and back.

The skeleton goes into the file's metadata as JSON, every tensor and array into the file's body. A
restartable stage is saved this way: the types and the bits that come back are those that went in.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from sprig.core import types
from sprig.core.errors import StoreError
from sprig.core.plan import Plan
from sprig.core.weights import read_all, write_tensors

RECORDS: tuple[type, ...] = (
    Plan,
    types.Axis,
    types.Budget,
    types.Certificate,
    types.Claim,
    types.CurvePoint,
    types.GroupPath,
    types.GroupRow,
    types.Measures,
    types.Outcome,
    types.RunRecord,
)


def save_tree(path: Path, value: Any, *, records: Iterable[type] = ()) -> None:
    """Write `value` atomically. `records` are further dataclasses that may occur in it."""
    tensors: dict[str, Tensor] = {}
    known = {cls: cls.__name__ for cls in (*RECORDS, *records)}
    skeleton = _pack(value, tensors, known)
    write_tensors(path, tensors, meta=skeleton)


def load_tree(path: Path, *, records: Iterable[type] = ()) -> Any:
    """Read back what `save_tree` wrote, with the same types."""
    tensors, skeleton = read_all(path)
    known = {cls.__name__: cls for cls in (*RECORDS, *records)}
    try:
        return _unpack(skeleton, tensors, known)
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(
            f"{path} does not hold a saved stage ({error}); remove it and resume"
        ) from error


def to_bytes(value: Any, *, records: Iterable[type] = ()) -> bytes:
    """The same as one string of bytes, to send to another process.

    >>> from_bytes(to_bytes({"a": (1, 2.5), 3: torch.arange(2)}))
    {'a': (1, 2.5), 3: tensor([0, 1])}
    """
    tensors: dict[str, Tensor] = {}
    skeleton = _pack(value, tensors, {cls: cls.__name__ for cls in (*RECORDS, *records)})
    flat = {n: t.detach().cpu().contiguous().clone() for n, t in tensors.items()}
    head = json.dumps(skeleton).encode()
    return len(head).to_bytes(8, "little") + head + save(flat)


def from_bytes(data: bytes, *, records: Iterable[type] = ()) -> Any:
    """Back from `to_bytes`."""
    end = 8 + int.from_bytes(data[:8], "little")
    known = {cls.__name__: cls for cls in (*RECORDS, *records)}
    return _unpack(json.loads(data[8:end]), load(data[end:]), known)


def _pack(value: Any, tensors: dict[str, Tensor], known: Mapping[type, str]) -> Any:
    if value is None or type(value) in (bool, int, str):
        return value
    if isinstance(value, str):  # a kind of string, as torch.__version__ is, comes back as a string
        return str(value)
    if isinstance(value, (float, np.floating)):
        number = float(value)
        return number if math.isfinite(number) else {"float": str(number)}
    if isinstance(value, (np.integer, np.bool_)):
        return value.item()
    if isinstance(value, (Tensor, np.ndarray)):
        name = str(len(tensors))
        tensors[name] = value if isinstance(value, Tensor) else torch.from_numpy(value.copy())
        return {"tensor" if isinstance(value, Tensor) else "array": name}
    if type(value) is list:
        return [_pack(v, tensors, known) for v in value]
    if type(value) is tuple:
        return {"tuple": [_pack(v, tensors, known) for v in value]}
    if type(value) in known:
        parts = {f.name: _pack(getattr(value, f.name), tensors, known) for f in fields(value)}
        return {"record": known[type(value)], "fields": parts}
    if isinstance(value, Mapping):
        pairs = [[_pack(k, tensors, known), _pack(v, tensors, known)] for k, v in value.items()]
        return {"dict": pairs}
    raise StoreError(
        f"cannot save a {type(value).__name__} in a stage; use tensors, arrays, numbers, strings, "
        "lists, tuples, dicts or a known record"
    )


def _unpack(node: Any, tensors: Mapping[str, Tensor], known: Mapping[str, type]) -> Any:
    if isinstance(node, list):
        return [_unpack(v, tensors, known) for v in node]
    if not isinstance(node, dict):
        return node
    if "record" in node:
        parts = {k: _unpack(v, tensors, known) for k, v in node["fields"].items()}
        return known[node["record"]](**parts)
    (kind, body), *rest = node.items()
    if rest:
        raise ValueError(f"unknown node with keys {sorted(node)}")
    if kind == "tensor":
        # A clone owns aligned memory of its own: what a kernel computes from it cannot depend on
        # where in the file it lay.
        return tensors[body].clone()
    if kind == "array":
        return tensors[body].clone().numpy()
    if kind == "tuple":
        return tuple(_unpack(v, tensors, known) for v in body)
    if kind == "dict":
        return {_unpack(k, tensors, known): _unpack(v, tensors, known) for k, v in body}
    if kind == "float":
        return float(body)
    raise ValueError(f"unknown node kind {kind!r}")
