"""A class of ours is an interface or a leaf: none is built on another that can already be used."""

import ast
import importlib
import inspect
from pathlib import Path
from typing import Any, Protocol

from torch import nn

SOURCE = Path(__file__).resolve().parents[2] / "src" / "sprig"


def _modules() -> list[str]:
    names = []
    for path in sorted(SOURCE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if path.name != "__main__.py" and any(isinstance(n, ast.ClassDef) for n in ast.walk(tree)):
            parts = ("sprig", *path.relative_to(SOURCE).with_suffix("").parts)
            names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return names


def _concrete(base: type) -> bool:
    """A class that one could use as it is. Exceptions and protocols are there to be built on."""
    if getattr(base, "_is_protocol", False) or inspect.isabstract(base):
        return False
    return not issubclass(base, BaseException)


def _built_on(classes: list[Any]) -> dict[str, list[str]]:
    ours = set(classes)
    found = {}
    for kind in classes:
        bad = [base.__qualname__ for base in kind.__bases__ if base in ours and _concrete(base)]
        if bad:
            found[f"{kind.__module__}.{kind.__qualname__}"] = bad
    return found


def test_no_class_is_built_on_a_concrete_one() -> None:
    classes = [
        value
        for name in _modules()
        for value in vars(importlib.import_module(name)).values()
        if inspect.isclass(value) and value.__module__ == name
    ]
    assert len(classes) > 10
    found = _built_on(classes)
    assert not found, f"wrap instead of inheriting, or make the base a Protocol: {found}"


def test_the_rule_catches_what_it_should() -> None:
    class Leaf:
        pass

    class Heir(Leaf):
        pass

    class Shape(Protocol):
        def area(self) -> float: ...

    class Square(Shape):
        def area(self) -> float:
            return 1.0

    class Net(nn.Module):
        pass

    class Trouble(Exception):
        pass

    class MoreTrouble(Trouble):
        pass

    found = _built_on([Leaf, Heir, Shape, Square, Net, Trouble, MoreTrouble])
    assert [key.rsplit(".", 1)[-1] for key in found] == ["Heir"]
