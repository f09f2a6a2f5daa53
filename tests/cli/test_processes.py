"""The command line in several processes, part by part: who notices what, who says it, what each is given."""

import os
import signal
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from sprig.cli import torchrun
from sprig.cli.torchrun import Last, Pulse, processes, together, who
from sprig.core.ranks import Ranks


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
        if self.broken:
            raise RuntimeError("connection reset")
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
    assert told == ["process 0, which holds the group together, has ended"]
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


def silenced(monkeypatch: Any) -> tuple[list[bytes], list[int]]:
    """Last words and exit status are noted only."""
    said: list[bytes] = []
    codes: list[int] = []
    monkeypatch.setattr(torchrun.os, "write", lambda fd, line: said.append(line))
    monkeypatch.setattr(torchrun.os, "_exit", codes.append)
    return said, codes


def test_the_last_words_and_the_exit(monkeypatch: Any) -> None:
    said, codes = silenced(monkeypatch)
    Last().give_up("process 1 gave no sign of life for 20 s")
    Last().stopped()
    assert codes == [2, 143]
    assert said[0].startswith(
        b"error: process 1 gave no sign of life for 20 s; finished stages are"
    )
    assert b"stopped by the launcher" in said[1] and said[1].endswith(b"goes on from them\n")


def test_last_words_are_said_once(monkeypatch: Any) -> None:
    said, _ = silenced(monkeypatch)
    last = Last()
    last.leave()  # the main thread has an error of its own to tell
    late = threading.Thread(target=last.give_up, args=("too late",), daemon=True)
    late.start()
    late.join(0.2)
    assert late.is_alive() and not said
    last.once.release()
    late.join(20)


def test_who_is_silent_is_named_and_who_took_leave_is_not() -> None:
    board = Board()
    pulses = [lonely(board, rank, 4, every=0.2, patience=60.0)[0] for rank in range(4)]
    for pulse in pulses:
        pulse.start()
    assert pulses[0].missing() == ""
    for pulse in pulses[2:]:
        pulse.over.set()
        pulse.join(20)
    assert pulses[0].missing() == "processes 2, 3 ended or hang"
    pulses[2].leave()
    assert pulses[1].missing() == "process 3 ended or hangs"
    pulses[2].leave("process 2 ended with an error")
    assert pulses[1].missing() == "process 2 ended with an error"
    board.broken = True
    assert pulses[1].missing() == "process 0, which holds the group together, has ended"
    for pulse in pulses:
        pulse.over.set()


def test_a_signal_is_heard_while_the_main_thread_is_inside_of_torch(monkeypatch: Any) -> None:
    """Waiting for a key that nobody sets: Python's own handlers would have to wait, too."""
    store = torch.distributed.HashStore()
    told: list[float] = []
    before = signal.getsignal(signal.SIGTERM)
    with torchrun.heard(signal.SIGTERM, lambda: told.append(time.monotonic())):
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
        with pytest.raises(RuntimeError):
            store.wait(["never"], timedelta(seconds=2))
        assert told and time.monotonic() - told[0] > 1
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("cards", "backend"), [(0, "gloo"), (1, "gloo"), (2, "cpu:gloo,cuda:nccl")]
)
def test_each_process_takes_its_own_accelerator(monkeypatch: Any, cards: int, backend: str) -> None:
    told = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}
    for name, value in {**told, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    board = Board()
    taken: list[int] = []
    made: list[Any] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cards > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cards)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(torchrun, "_met", lambda: board)
    monkeypatch.setattr(torchrun, "_pulse", lambda lost: lonely(board, 3, 4)[0])
    monkeypatch.setattr(
        torch.distributed, "init_process_group", lambda kind, **more: made.append((kind, more))
    )
    monkeypatch.setattr("sprig.core.ranks.present", lambda: Ranks(3, 1))
    with together() as ranks:
        assert ranks.rank == 3
    assert taken == ([1] if cards == 2 else [])
    assert made[0][0] == backend
    assert (made[0][1]["rank"], made[0][1]["world_size"], made[0][1]["store"]) == (3, 4, board)


def test_a_group_that_does_not_come_about_is_told_in_one_line(refused, monkeypatch: Any) -> None:
    """A process waits for one that died before it could be met, or the other way round."""
    told = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torchrun, "BEGIN", 1.0)
    given = ("--model", "sprig:lenet", "--data", "digits", "--macs", "0.5")
    line = refused("prune", *given, "--out", "nowhere")
    assert line.startswith("error: process 1: not all of the 2 processes came within 1 s")
    assert "start them again" in line
