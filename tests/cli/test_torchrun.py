"""torchrun itself: the plan of one process; a killed one ends all and is named; `--resume` ends with the same bits."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sprig.core.store import sha256_file
from sprig.testing.processes import Processes

HERE = Path(__file__)
CUT, WORK = HERE.with_name("processes_cut.py"), HERE.parents[1] / "workflow" / "processes_work.py"
LINE = ("prune", "--model", f"{WORK}:network", "--data", "digits", "--images", "67", "--macs", "0.5",
        "--threads", "1", "--set", "least_rows=500", "--set", "sequential_rows=1500",
        "--set", "ratio_pairs=4", "--no-report")  # fmt: skip


def torchrun(size: int, *program: str) -> subprocess.CompletedProcess[str]:
    """What a user types: everything that the processes say comes together."""
    path = os.pathsep.join(p for p in sys.path if p)
    environment = {k: v for k, v in os.environ.items() if k != "RANK"}
    environment |= {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    line += ["--nproc-per-node", str(size), *program]
    return subprocess.run(line, capture_output=True, text=True, env=environment, check=False)


def killed(size: int, place: str, victim: int, out: Path) -> float:
    """Under torchrun one process is killed; how long until all have ended, once what they say is checked."""
    stamp = out.with_suffix(".stamp")
    line = (str(CUT), str(stamp), place, str(victim), *LINE, "--out", str(out))
    ended = torchrun(size, *line)
    seconds = time.time() - float(stamp.read_text())
    assert ended.returncode != 0
    check_last_words(ended.stderr, size, victim)
    return seconds


def check_last_words(said: str, size: int, victim: int) -> None:
    """One line of each process that is left; it names the one that is gone and says what to do."""
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(lines) == size - 1, said
    for line in lines:
        rank = line.partition("error: process ")[2].partition(":")[0]
        words = line.removeprefix("error: ").removeprefix(f"process {rank}: ")
        assert words.startswith(f"process {victim}"), line
        assert "ended" in words or "no sign of life" in words
        assert words.endswith("the same command with --resume goes on from them")


def same_files(a: Path, b: Path) -> None:
    for name in ("plan.json", "model.safetensors", "path.safetensors"):
        assert sha256_file(a / name) == sha256_file(b / name), name
    assert not (a / "state").exists()


@pytest.fixture(scope="module")
def whole(sprig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process makes of it."""
    out = tmp_path_factory.mktemp("one") / "whole"
    result = sprig(*LINE, "--out", out)
    assert result.exit_code == 0, result.output
    return out


def resumed(sprig, out: Path, whole: Path) -> None:
    """One process alone goes on."""
    result = sprig(*LINE, "--out", out, "--resume")
    assert result.exit_code == 0, result.output
    same_files(out, whole)


@pytest.mark.flow
def test_torchrun_gives_what_one_process_gives_and_goes_on_after_a_kill(
    sprig, tmp_path: Path, whole: Path
) -> None:
    """Killed before any stage is finished, so that the second run does everything."""
    out, copy = tmp_path / "torn", tmp_path / "copy"
    assert killed(2, "moments", 1, out) < 30
    assert not (out / "state" / "search.safetensors").exists()
    shutil.copytree(out, copy)
    again = torchrun(2, "-m", "sprig", *LINE, "--out", str(out), "--resume")
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("cut to") == 1, "only the first process prints"
    same_files(out, whole)
    resumed(sprig, copy, whole)


def ended(tmp_path: Path, size: int, place: str, victim: int) -> Path:
    """The same without torchrun: nobody stops the others."""
    out, stamp = tmp_path / "torn", tmp_path / "stamp"
    line = (str(stamp), place, str(victim), *LINE, "--out", str(out))
    group = Processes(f"{CUT}:dying", size, tmp_path, line)
    others = [rank for rank in range(size) if rank != victim]
    for rank in others:
        group.children[rank].join(300)
    seconds = time.time() - float(stamp.read_text())
    codes = group.wait(60)
    said = "".join(group.said(rank) for rank in others)
    assert codes[victim] == -9
    assert [codes[rank] for rank in others] == [2] * len(others), said
    assert seconds < 30
    check_last_words(said, size, victim)
    assert (out / "state" / "search.safetensors").is_file() == (place == "final")
    return out


@pytest.mark.flow
def test_a_killed_process_ends_all_without_torchrun(sprig, tmp_path: Path, whole: Path) -> None:
    out = ended(tmp_path, 4, "final", 2)
    resumed(sprig, out, whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "place", "victim"),
    [(2, "final", 0), (2, "final", 1), (4, "moments", 3), (4, "moments", 0), (4, "begin", 1)],
)
def test_whoever_is_killed_whenever(
    sprig, tmp_path: Path, whole: Path, size: int, place: str, victim: int
) -> None:
    resumed(sprig, ended(tmp_path, size, place, victim), whole)


@pytest.mark.slow
def test_four_under_torchrun(tmp_path: Path, whole: Path) -> None:
    plain = torchrun(4, "-m", "sprig", *LINE, "--out", str(tmp_path / "plain"))
    assert plain.returncode == 0, plain.stderr
    same_files(tmp_path / "plain", whole)


@pytest.mark.slow
@pytest.mark.parametrize(("place", "victim"), [("begin", 2), ("moments", 3), ("final", 0)])
def test_four_under_torchrun_and_one_is_killed(
    sprig, tmp_path: Path, whole: Path, place: str, victim: int
) -> None:
    """Before the group is made they wait inside torch, where a signal of the launcher was not heard."""
    out = tmp_path / "torn"
    assert killed(4, place, victim, out) < 30
    if place == "begin":
        resumed(sprig, out, whole)
        return
    again = torchrun(4, "-m", "sprig", *LINE, "--out", str(out), "--resume")
    assert again.returncode == 0, again.stderr
    same_files(out, whole)
