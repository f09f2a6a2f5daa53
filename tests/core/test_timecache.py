"""Measured times on disk."""

import json
from pathlib import Path

import pytest

from sprig.core.errors import InputError
from sprig.core.timecache import TimeCache, cache_folder


def test_what_was_added_is_read(tmp_path: Path) -> None:
    cache = TimeCache(tmp_path / "deep" / "er", {"device": "X", "batch": 1})
    assert cache.read() == {}
    cache.add({"a": 1.5})
    cache.add({"b": 2})
    assert cache.read() == {"a": 1.5, "b": 2.0}
    cache.add({})
    assert [p.name for p in cache.path.parent.iterdir()] == [cache.path.name], (
        "nothing half-written"
    )


def test_another_setting_is_another_file(tmp_path: Path) -> None:
    one, two = (TimeCache(tmp_path, {"batch": b}) for b in (1, 2))
    one.add({"a": 1.0})
    assert two.read() == {}
    one.path.replace(two.path)  # somebody renamed it
    assert two.read() == {}, "the file says what it is about"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"format": "other"}', '{"format": "sprig-times", "version": 99}']
)
def test_a_damaged_file_is_as_good_as_none(tmp_path: Path, text: str) -> None:
    cache = TimeCache(tmp_path, {})
    cache.add({"a": 1.0})
    cache.path.write_text(text)
    assert cache.read() == {}
    cache.add({"b": 2.0})
    assert cache.read() == {"b": 2.0}


def test_numbers_that_are_no_times_are_left_out(tmp_path: Path) -> None:
    cache = TimeCache(tmp_path, {})
    cache.add({"a": 1.0})
    raw = json.loads(cache.path.read_text())
    raw["times"] |= {"b": "2", "c": -1, "d": None, "e": True, "f": float("nan")}
    cache.path.write_text(json.dumps(raw))
    assert cache.read() == {"a": 1.0}


def test_where_it_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("SPRIG_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert cache_folder() == Path.home() / ".cache" / "sprig"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == Path.home() / ".cache" / "sprig"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "sprig"
    monkeypatch.setenv("SPRIG_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    assert cache_folder("here") == Path("here")


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="name another folder with SPRIG_CACHE"):
        TimeCache(tmp_path / "file" / "x", {}).add({"a": 1.0})
