"""Finding the user's own functions."""

import sys
from pathlib import Path

import pytest

from sprig.core.errors import InputError
from sprig.core.lookup import accepted, find_function

SOURCE = "import dataclasses\nVALUE = 3\nclass Box:\n    def make():\n        return 5\ndef give():\n    return 4\n"


def test_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(SOURCE)
    function = find_function(f"{path}:give")
    assert function() == 4
    assert find_function(f"{path}:give") is function  # the file runs once
    assert find_function(f"{path}:Box.make")() == 5


def test_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lookup_here.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    assert find_function("lookup_here:give")() == 4
    assert sys.path == before


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("give", "not of the form module:function"),
        (":give", "not of the form module:function"),
        ("no_such_module_here:give", "cannot import 'no_such_module_here'"),
        ("nowhere/file.py:give", "there is no file nowhere/file.py"),
        ("math:pi", "math:pi is a float, expected a function"),
        ("math:nothing", "math has no 'nothing'; it has acos, acosh,"),
        ("keyword:nothing", "keyword has no 'nothing'; it has"),
    ],
)
def test_refusals(spec: str, text: str) -> None:
    with pytest.raises(InputError, match=text):
        find_function(spec)


def test_code_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lookup_broken.py"
    path.write_text("1 / 0\n")
    with pytest.raises(InputError, match="does not run: ZeroDivisionError"):
        find_function(f"{path}:give")
    assert not [name for name in sys.modules if name.startswith("sprig_user_lookup_broken")]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="lookup_broken does not import: ZeroDivisionError"):
        find_function("lookup_broken:give")


def test_accepted_options() -> None:
    options = {"seed": 1, "split": "train"}
    assert accepted(lambda **all_of_it: None, options) == options
    assert accepted(lambda: None, options) == {}
    assert accepted(dict.fromkeys, options) in ({}, options)  # written in C: no fault either way
