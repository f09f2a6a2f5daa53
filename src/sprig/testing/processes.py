"""Several real processes on one machine, for tests of what they do together.

Children are forked from a server that has torch loaded already, so that starting one takes a fraction of a second.
They find each other as under torchrun (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT). What they print goes to files.
"""

import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PRELOAD = ["torch.distributed", "sprig.workflow.story", "sprig.cli.prune", __name__]


class Processes:
    """`size` processes that call `target` ("path/to/file.py:function") with `arguments`, in `folder`."""

    def __init__(
        self, target: str, size: int, folder: Path, arguments: tuple[Any, ...] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOAD)
        port = _free_port()
        self.folder, self.began = folder, time.monotonic()
        self.children = []
        for rank in range(size):
            told = {
                "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size),
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), **(environment or {}),
            }  # fmt: skip
            file = folder / f"{rank}"
            child = context.Process(target=_child, args=(target, arguments, told, str(file)))
            child.start()
            self.children.append(child)

    def kill(self, rank: int) -> None:
        """As the system does when memory runs out."""
        self.children[rank].kill()

    def wait(self, seconds: float) -> list[int | None]:
        """The exit status of each, None for one that has not ended by then (and is killed)."""
        end = time.monotonic() + seconds
        for child in self.children:
            child.join(max(0.0, end - time.monotonic()))
        codes = [child.exitcode for child in self.children]
        for child in self.children:
            child.kill()
            child.join()
        return codes

    def said(self, rank: int) -> str:
        """What a process wrote to stdout and stderr."""
        return (self.folder / f"{rank}.out").read_text() + (self.folder / f"{rank}.err").read_text()


def _child(
    target: str, arguments: tuple[Any, ...], environment: Mapping[str, str], file: str
) -> None:
    for number, end in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{file}.{end}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.environ.update(environment)
    import torch

    from sprig.core.lookup import find_function

    torch.set_num_threads(1)
    try:
        find_function(target)(*arguments)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
