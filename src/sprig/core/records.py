"""The frozen records as plain JSON and back, strictly: an unknown or missing key is an error.

JSON has no infinity and no NaN, so those numbers travel as {"float": "inf"}.
"""

import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import PurePath
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
import torch

from sprig.core.errors import StoreError

T = TypeVar("T")


def plain(value: Any) -> Any:
    """`value` as dicts, lists, strings, numbers and None only.

    >>> plain({"a": (1, 2), "b": float("inf")})
    {'a': [1, 2], 'b': {'float': 'inf'}}
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        number = float(value)
        return number if math.isfinite(number) else {"float": str(number)}
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, torch.Tensor):
        return plain(value.tolist())
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        items = sorted(value, key=repr) if isinstance(value, (set, frozenset)) else value
        return [plain(v) for v in items]
    raise StoreError(
        f"cannot write a {type(value).__name__} as JSON; give numbers, strings, lists or dicts"
    )


def dumps(value: Any, *, indent: int | None = None) -> str:
    """`value` as JSON text, with sorted keys so that equal values give equal text."""
    return json.dumps(plain(value), indent=indent, sort_keys=True, allow_nan=False)


def loads(text: str, *, what: str) -> Any:
    """Read JSON text; `what` names it in the error."""
    try:
        return json.loads(text, object_hook=_unhook)
    except ValueError as error:  # also JSONDecodeError and a broken {"float": ...}
        raise StoreError(
            f"{what} is not valid JSON ({error}): it is truncated or damaged; "
            "restore it or make the run again"
        ) from error


def read(cls: type[T], raw: Any, *, what: str = "") -> T:
    """The record of class `cls` that `raw` (parsed JSON) describes.

    Raises `StoreError` when a key is unknown or missing, or a value has the wrong type.

    >>> from sprig.core.types import Budget
    >>> read(Budget, {"macs": 0.5})
    Budget(macs=0.5, params=None, bytes=None, latency_ms=None, latency=None)
    """
    what = what or cls.__name__
    if not isinstance(raw, Mapping):
        raise StoreError(f"{what}: expected an object with keys, found {_short(raw)}")
    hints = get_type_hints(cls)
    known = {f.name: f for f in fields(typing.cast(Any, cls)) if f.init}
    for key in raw:
        if key not in known:
            raise StoreError(f"{what}: unknown key {key!r}; known are {', '.join(known)}")
    values = {}
    for name, field in known.items():
        if name in raw:
            values[name] = _convert(hints[name], raw[name], what=f"{what}.{name}")
        elif field.default is MISSING and field.default_factory is MISSING:
            raise StoreError(f"{what}: the key {name!r} is missing")
    return cls(**values)


def _convert(hint: Any, raw: Any, *, what: str) -> Any:
    """`raw` as the type that the annotation `hint` asks for."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return raw
    if origin in (Union, types.UnionType):
        return _convert_union(args, raw, what=what)
    if origin is Literal:
        if raw in args:
            return raw
        raise StoreError(
            f"{what}: expected one of {', '.join(map(str, args))}, found {_short(raw)}"
        )
    if origin is tuple and isinstance(raw, (list, tuple)):
        if len(args) == 2 and args[1] is Ellipsis:
            return tuple(_convert(args[0], v, what=what) for v in raw)
        if len(raw) == len(args):
            return tuple(_convert(a, v, what=what) for a, v in zip(args, raw, strict=True))
    elif origin is list and isinstance(raw, (list, tuple)):
        return [_convert(args[0], v, what=what) for v in raw]
    elif isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(raw, Mapping):
        return {k: _convert(args[1], v, what=f"{what}.{k}") for k, v in raw.items()}
    elif hint is float and isinstance(raw, (int, float)) and not isinstance(raw, bool):
        return float(raw)
    elif hint in (bool, int, str, type(None)) and type(raw) is hint:
        return raw
    elif isinstance(hint, type) and is_dataclass(hint):
        return read(hint, raw, what=what)
    elif isinstance(hint, type) and issubclass(hint, PurePath) and isinstance(raw, str):
        return hint(raw)
    raise StoreError(f"{what}: expected {_name(hint)}, found {_short(raw)}")


def _convert_union(args: tuple[Any, ...], raw: Any, *, what: str) -> Any:
    for exact in (True, False):  # an exact scalar type wins: 3 in `int | float` stays an int
        for arg in args:
            if exact and (not isinstance(arg, type) or type(raw) is not arg):
                continue
            try:
                return _convert(arg, raw, what=what)
            except StoreError:
                continue
    names = " or ".join(_name(a) for a in args)
    raise StoreError(f"{what}: expected {names}, found {_short(raw)}")


def _unhook(obj: dict[str, Any]) -> Any:
    if set(obj) == {"float"} and isinstance(obj["float"], str):
        return float(obj["float"])
    return obj


def _name(hint: Any) -> str:
    if hint is type(None):
        return "null"
    return hint.__name__ if isinstance(hint, type) else str(hint)


def _short(raw: Any) -> str:
    text = repr(raw)
    return text if len(text) <= 40 else text[:37] + "..."
