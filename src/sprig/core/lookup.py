"""Finds what a spec names in the user's own code: `module:function` or `path/file.py:function`."""

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import Any

from sprig.core.errors import InputError


def find_function(spec: str) -> Callable[..., Any]:
    """The callable that `spec` names; the current folder counts as a place to import from.

    >>> find_function("math:hypot")(3.0, 4.0)
    5.0
    >>> find_function("math:hypotenuse")
    Traceback (most recent call last):
    ...
    sprig.core.errors.InputError: math has no 'hypotenuse'; it has acos, acosh, asin, ...
    """
    where, _, name = spec.rpartition(":")
    if not where or not name:
        raise InputError(f"{spec!r} is not of the form module:function or path/to/file.py:function")
    module = _from_file(Path(where)) if where.endswith(".py") else _from_path(where)
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            there = sorted(n for n, v in vars(module).items() if callable(v) and n[0] != "_")
            more = ", ..." if len(there) > 12 else ""
            listed = ", ".join(there[:12]) + more if there else "no functions"
            raise InputError(f"{where} has no {name!r}; it has {listed}")
        found = getattr(found, part)
    if not callable(found):
        raise InputError(f"{spec} is a {type(found).__name__}, expected a function")
    function: Callable[..., Any] = found
    return function


def accepted(function: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `options` that `function` has a keyword for.

    >>> accepted(lambda *, seed: None, {"seed": 3, "split": "train"})
    {'seed': 3}
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # written in C without a signature
        return {}
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return dict(options)
    named = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return {name: value for name, value in options.items() if name in named}


def shipped(package: str) -> list[Path]:
    """The files that an installed package ships.

    >>> any(f.name == "METADATA" for f in shipped("safetensors"))
    True
    """
    try:
        found = metadata.distribution(package)
    except (metadata.PackageNotFoundError, ValueError) as error:
        raise InputError(f"package {package!r} is not installed: pip install {package}") from error
    files = (Path(str(found.locate_file(f))) for f in found.files or ())
    return sorted(f for f in files if f.is_file())


def file_of(spec: str) -> Path:
    """The file that `spec` names: a path, or `package:NAME/path/inside` for one that a package ships.

    >>> file_of("package:safetensors/safetensors/__init__.py").name
    '__init__.py'
    """
    if not spec.startswith("package:"):
        path = Path(spec).expanduser()
        if not path.is_file():
            raise InputError(f"there is no file {path}")
        return path
    package, _, inside = spec.removeprefix("package:").partition("/")
    found = [f for f in shipped(package) if inside and f.as_posix().endswith(f"/{inside}")]
    if len(found) != 1:
        raise InputError(
            f"package {package} ships {len(found)} files {inside!r}; give package:NAME/path/inside of one"
        )
    return found[0]


def _from_file(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"there is no file {path}; give path/to/file.py:function")
    path = path.resolve()
    name = f"sprig_user_{path.stem}_{sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # the name ends in .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and torch.export look a class's module up by name
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise InputError(f"{path} does not run: {type(error).__name__}: {error}") from error
    return module


def _from_path(where: str) -> Any:
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(where)
    except ModuleNotFoundError as error:
        raise InputError(
            f"cannot import {where!r} ({error}); run from the folder that holds it, install it, "
            "or give path/to/file.py:function"
        ) from error
    except Exception as error:
        raise InputError(f"{where} does not import: {type(error).__name__}: {error}") from error
    finally:
        if added:
            sys.path.remove(here)
