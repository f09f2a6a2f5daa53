"""The front door: every name is there, comes from where the type checker thinks, and costs no torch."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import sprig


def test_every_name_is_what_the_type_checker_sees() -> None:
    tree = ast.parse(Path(sprig.__file__).read_text())
    checked = {
        alias.asname or alias.name: node.module
        for block in tree.body
        if isinstance(block, ast.If)
        for node in ast.walk(block)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert set(checked) == set(sprig.__all__) <= set(dir(sprig))
    assert dict(sprig._HOME) == checked
    for name in sprig.__all__:
        assert getattr(sprig, name) is not None


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'prun'"):
        sprig.prun  # noqa: B018


def test_importing_the_front_door_does_not_import_torch() -> None:
    root = str(Path(sprig.__file__).parents[1])
    code = (
        f"import sys; sys.path.insert(0, {root!r}); import sprig; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_star_gives_all_names_and_each_is_the_one_of_its_module() -> None:
    space: dict[str, object] = {}
    exec("from sprig import *", space)
    for name, home in sprig._HOME.items():
        assert space[name] is getattr(importlib.import_module(home), name)
