"""A run of `sprig train`, made once, and a way to call the command."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from sprig.cli.main import app

TINY = ["--model", "sprig:resnet20", "--model-args", "width=4"]
SOME = ["--data", "digits", "--images", "128"]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The machine is shared, and --threads must not leak into other tests."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def call_sprig(*arguments: Any) -> Result:
    """Call the command in this process."""
    return CliRunner().invoke(app, [str(a) for a in arguments])


def call_answer(*arguments: Any) -> dict[str, Any]:
    """What `--json` prints; exactly one JSON object."""
    result = call_sprig(*arguments, "--json")
    assert result.exit_code == 0, result.output + repr(result.exception)
    assert result.stdout.count("\n") == 1
    return json.loads(result.stdout)


def call_command(*arguments: Any, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Call the command as a process of its own."""
    path = os.pathsep.join(p for p in sys.path if p)
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "sprig", *map(str, arguments)]
    return subprocess.run(
        line, capture_output=True, text=True, env=environment, cwd=cwd, check=False
    )


def call_refused(*arguments: Any) -> str:
    """The one line on stderr of a call that must end with status 2."""
    result = call_sprig(*arguments)
    assert result.exit_code == 2, result.output + repr(result.exception)
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.fixture(scope="session")
def sprig() -> Callable[..., Result]:
    return call_sprig


@pytest.fixture(scope="session")
def answer() -> Callable[..., dict[str, Any]]:
    return call_answer


@pytest.fixture(scope="session")
def refused() -> Callable[..., str]:
    return call_refused


@pytest.fixture(scope="session")
def command() -> Callable[..., subprocess.CompletedProcess[str]]:
    return call_command


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of `sprig train`."""
    out = tmp_path_factory.mktemp("runs") / "dense"
    result = call_sprig("train", *TINY, *SOME, "--epochs", 2, "--out", out, "--threads", 1)
    assert result.exit_code == 0, result.output + repr(result.exception)
    return out
