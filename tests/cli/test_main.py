"""The front of the command line: its table of verbs, its help, and its one way to fail."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from sprig.cli import main
from sprig.core.errors import SprigError, StoreError


def test_help_lists_every_verb_and_loads_no_torch(command) -> None:
    done = command("--help")
    assert done.returncode == 0
    for verb in main.VERBS:
        assert f"  {verb} " in done.stdout
    check = "import sys, sprig.cli.main; sys.exit('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    assert (
        subprocess.run([sys.executable, "-c", check], env=environment, check=False).returncode == 0
    )


@pytest.mark.parametrize("verb", main.VERBS)
def test_every_verb_has_help_and_json(sprig, verb: str) -> None:
    result = sprig(verb, "--help")
    assert result.exit_code == 0, result.output
    assert "--json" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_no_verb_shows_help_and_version_is_said(sprig) -> None:
    assert "Commands:" in sprig().stdout
    assert sprig("--version").stdout.startswith("sprig ")


def test_usage_errors_are_one_line(refused) -> None:
    assert "No such command 'prun'" in refused("prun")
    assert "--model" in refused("inspect")
    assert "--nonsense" in refused("methods", "--nonsense")


def verb_that_raises(error: BaseException) -> SimpleNamespace:
    def run() -> None:
        raise error

    return SimpleNamespace(run=run, __doc__="Raises.")


def test_errors_of_ours_are_one_line(sprig, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "sprig.cli.methods", verb_that_raises(StoreError("a\n  b")))
    result = sprig("methods")
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", "error: a b\n")


def test_defects_are_not_hidden(sprig, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "sprig.cli.methods", verb_that_raises(RuntimeError("defect")))
    result = sprig("methods")
    assert isinstance(result.exception, RuntimeError)
    assert not isinstance(result.exception, SprigError)


def test_an_interrupt_says_how_to_go_on(sprig, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "sprig.cli.methods", verb_that_raises(KeyboardInterrupt()))
    result = sprig("methods")
    assert result.exit_code == 130
    assert "--resume" in result.stderr
