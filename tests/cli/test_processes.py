"""The command line in several processes: one prints, a killed one ends all, `--resume` ends with the same plan."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from sprig.cli import torchrun
from sprig.cli.torchrun import Pulse, processes, together, who
from sprig.core.store import sha256_file
from sprig.testing.processes import Processes

HERE = Path(__file__)
CUT, WORK = HERE.with_name("processes_cut.py"), HERE.parents[1] / "workflow" / "processes_work.py"
LINE = [
    "prune",
    "--model",
    f"{WORK}:network",
    "--data",
    "digits",
    "--images",
    "67",
    "--macs",
    "0.5",
]
LINE += ["--threads", "1", "--set", "least_rows=500", "--set", "sequential_rows=1500"]
LINE += ["--set", "ratio_pairs=4", "--no-report"]


@pytest.mark.flow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_all_and_the_run_goes_on(sprig, tmp_path: Path, victim: int) -> None:
    out, stamp = tmp_path / "torn", tmp_path / "stamp"
    group = Processes(
        f"{CUT}:dying", 2, tmp_path, (str(stamp), str(victim), *LINE, "--out", str(out))
    )
    group.children[1 - victim].join(300)
    seconds = time.time() - float(stamp.read_text())
    codes = group.wait(60)
    assert codes[victim] == -9
    assert codes[1 - victim] == 2, group.said(1 - victim)
    assert seconds < 30
    said = group.said(1 - victim)
    assert said.count("error: ") == 1, said
    assert "one of them has ended" in said or "has ended" in said or "no sign of life" in said
    assert "resume" in said
    assert (out / "state" / "search.safetensors").is_file(), "what was finished is kept"
    again = Processes(
        f"{CUT}:dying", 2, tmp_path, ("", "none", *LINE, "--out", str(out), "--resume")
    )
    assert again.wait(300) == [0, 0], again.said(0) + again.said(1)
    assert "cut to" in again.said(0)
    assert again.said(1) == "", "only the first process prints"
    whole = sprig(*LINE, "--out", tmp_path / "whole")
    assert whole.exit_code == 0, whole.output
    for name in ("plan.json", "model.safetensors", "path.safetensors"):
        assert sha256_file(out / name) == sha256_file(tmp_path / "whole" / name), name
    assert not (out / "state").exists()


class Board:
    """A store in memory; `set` and `get` of one key may be cut off."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.broken = False

    def set(self, key: str, value: str) -> None:
        if self.broken:
            raise RuntimeError("connection reset")
        self.values[key] = value.encode()

    def check(self, keys: list[str]) -> bool:
        return all(key in self.values for key in keys)

    def get(self, key: str) -> bytes:
        return self.values[key]


def lonely(board: Board, rank: int, size: int, **times: float) -> tuple[Pulse, list[str]]:
    said: list[str] = []
    times = {"every": 0.02, "patience": 0.4, "begin": 30.0, **times}
    return Pulse(board, rank, size, said.append, **times), said


def test_a_silent_process_is_noticed_and_a_living_one_is_not() -> None:
    board = Board()
    (first, told), (second, _) = lonely(board, 0, 2), lonely(board, 1, 2)
    first.start()
    second.start()
    time.sleep(1.2)
    assert first.is_alive() and not told, "three times the patience, and signs all the while"
    second.over.set()
    first.join(20)
    assert len(told) == 1 and told[0].startswith("process 1 gave no sign of life for")


def test_a_process_that_never_comes_is_noticed_later() -> None:
    pulse, told = lonely(Board(), 0, 2, begin=0.3)
    pulse.run()
    assert "process 1 gave no sign of life" in told[0]


def test_a_store_that_is_gone_is_noticed_unless_all_is_done() -> None:
    board = Board()
    board.broken = True
    pulse, told = lonely(board, 1, 2)
    pulse.run()
    assert told == ["the process that holds the group together has ended"]
    pulse, told = lonely(board, 1, 2, every=0.3)
    threading.Timer(0.1, pulse.over.set).start()
    pulse.run()
    assert told == []


def test_alone_nothing_is_started(monkeypatch: Any) -> None:
    for name in torchrun.NEEDED:
        monkeypatch.delenv(name, raising=False)
    assert (processes(), who()) == (1, "")
    before = threading.active_count()
    with together() as ranks:
        assert ranks.alone and ranks.first
        assert threading.active_count() == before


def test_other_verbs_are_refused_under_torchrun(refused, monkeypatch: Any, tmp_path: Path) -> None:
    told = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    line = refused("report", tmp_path)
    assert "process 1: sprig report runs in one process, torchrun started 2" in line


def test_the_last_words_and_the_exit(monkeypatch: Any) -> None:
    said: list[bytes] = []
    codes: list[int] = []
    monkeypatch.setattr(torchrun.os, "write", lambda fd, line: said.append(line))
    monkeypatch.setattr(torchrun.os, "_exit", codes.append)
    torchrun.give_up("process 1 gave no sign of life for 20 s")
    torchrun._stopped(15, None)
    assert codes == [2, 143]
    assert said[0].startswith(
        b"error: process 1 gave no sign of life for 20 s; finished stages are"
    )
    assert b"stopped by the launcher" in said[1] and said[1].endswith(b"goes on from them\n")
