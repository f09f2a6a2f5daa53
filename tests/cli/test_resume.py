"""Killed at any moment, `--resume` ends with the same hashes as an undisturbed run."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sprig.core.store import sha256_file

TRAIN = ("train", "--model", "sprig:resnet20", "--model-args", "width=4", "--data", "digits")
TRAIN = (*TRAIN, "--images", "128", "--epochs", "3", "--threads", "1", "--no-report")
PRUNE = ("prune", "--data", "digits", "--images", "128", "--macs", "0.5", "--threads", "1")
KILLS = int(os.environ.get("SPRIG_KILLS", "2"))


def killed_until_done(arguments: tuple[object, ...], out: Path, *, seconds: float) -> int:
    """Start, kill at a random moment within `seconds`, resume, ...; how often it was really killed."""
    draw = random.Random(len(arguments))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    line = [sys.executable, "-m", "sprig", *map(str, arguments), "--out", str(out), "--resume"]
    kills = 0
    for _ in range(KILLS):
        process = subprocess.Popen(
            line, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        # the first one early: a run may be quicker than the one that was timed
        time.sleep(draw.uniform(0.2, 1.0 if kills else 0.6) * seconds)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return kills


def hashes(folder: Path, *names: str) -> dict[str, str]:
    assert not list(folder.glob(".tmp-*"))
    assert not (folder / "state").exists()
    return {name: sha256_file(folder / name) for name in names}


@pytest.mark.flow
def test_train_killed_and_resumed(command, tmp_path: Path) -> None:
    began = time.monotonic()
    whole = command(*TRAIN, "--out", tmp_path / "whole")
    seconds = time.monotonic() - began
    assert whole.returncode == 0, whole.stderr
    assert killed_until_done(TRAIN, tmp_path / "torn", seconds=seconds) >= 1
    names = ("model.safetensors", "config.json", "metrics.jsonl")
    assert hashes(tmp_path / "torn", *names) == hashes(tmp_path / "whole", *names)


@pytest.mark.flow
@pytest.mark.parametrize("method", ["halo", "greg1", "gates", "group-grda"])
def test_train_with_a_penalty_killed_and_resumed(method: str, command, tmp_path: Path) -> None:
    shrink = {
        "halo": ("--set", "xi=1e-3", "--keep", "0.3", "--ramp", "1"),
        "greg1": ("--set", "every=1", "--set", "step=0.1", "--set", "hold=2", "--keep", "0.5"),
        "gates": ("--no-first",),
        "group-grda": ("--set", "c=0.02", "--set", "scale=one", "--macs", "0.5"),
    }[method]
    train = (*TRAIN, "--method", method, *shrink)
    began = time.monotonic()
    whole = command(*train, "--out", tmp_path / "whole")
    seconds = time.monotonic() - began
    assert whole.returncode == 0, whole.stderr
    assert killed_until_done(train, tmp_path / "torn", seconds=seconds) >= 1
    names = ["model.safetensors", "config.json"]
    names.append("masks.safetensors" if method == "halo" else "plan.json")
    assert hashes(tmp_path / "torn", *names) == hashes(tmp_path / "whole", *names)
    logs = [
        [json.loads(line) for line in (tmp_path / n / "metrics.jsonl").read_text().splitlines()]
        for n in ("torn", "whole")
    ]
    epochs = [[row for row in log if row["kind"] == "epoch"] for log in logs]
    assert len(epochs[0]) == 3
    assert epochs[0] == epochs[1]  # the times of layers differ, these do not


@pytest.mark.flow
def test_prune_killed_and_resumed(command, trained: Path, tmp_path: Path) -> None:
    prune = (*PRUNE, "--model", trained)
    began = time.monotonic()
    whole = command(*prune, "--out", tmp_path / "whole")
    seconds = time.monotonic() - began
    assert whole.returncode == 0, whole.stderr
    assert killed_until_done(prune, tmp_path / "torn", seconds=seconds) >= 1
    names = ("model.safetensors", "plan.json", "config.json", "path.safetensors")
    assert hashes(tmp_path / "torn", *names) == hashes(tmp_path / "whole", *names)


@pytest.mark.flow
def test_finetune_killed_and_resumed(command, trained: Path, tmp_path: Path) -> None:
    cut = command(*PRUNE, "--model", trained, "--out", tmp_path / "cut", "--no-report")
    assert cut.returncode == 0, cut.stderr
    tune = ("finetune", tmp_path / "cut", "--epochs", "3", "--threads", "1", "--no-report")
    began = time.monotonic()
    whole = command(*tune, "--out", tmp_path / "whole")
    seconds = time.monotonic() - began
    assert whole.returncode == 0, whole.stderr
    assert killed_until_done(tune, tmp_path / "torn", seconds=seconds) >= 1
    names = ("model.safetensors", "config.json")
    assert hashes(tmp_path / "torn", *names) == hashes(tmp_path / "whole", *names)


@pytest.mark.flow
def test_a_run_is_resumed_as_it_was_begun(command, trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "state").mkdir(parents=True)
    (out / "config.json").write_text((trained / "config.json").read_text())
    done = command(*TRAIN, "--out", out, "--resume")
    assert done.returncode == 2
    assert "was begun with" in done.stderr
    assert (out / "config.json").is_file()
