"""The command line under torchrun: one group of processes, the first prints, and all end soon when one is gone.

What torchrun (or any launcher that sets RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT) started becomes a group: gloo
for what is on the CPU, nccl beside it where there is an accelerator for each. Every process gives a sign of life to
the group's store every few seconds and looks for those of the others, from a thread of its own, so that a process that
was killed or hangs is noticed while the others compute or wait, whatever the backend.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sprig.core.ranks import Ranks

NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
EVERY = 2.0  # seconds between signs of life
PATIENCE = 20.0  # seconds without one after which a process is given up
BEGIN = 300.0  # seconds for all to be started
NEVER = timedelta(days=30)  # a process may wait for another as long as that one lives
LOST, STOPPED = 2, 143  # exit status
KEPT = "finished stages are kept, the same command with --resume goes on from them"


def processes() -> int:
    """How many processes the launcher started."""
    if not all(name in os.environ for name in NEEDED):
        return 1
    return int(os.environ["WORLD_SIZE"])


def who() -> str:
    """For the messages of processes that are not the first."""
    rank = int(os.environ.get("RANK", "0")) if processes() > 1 else 0
    return f"process {rank}: " if rank else ""


@contextmanager
def together() -> Iterator["Ranks"]:
    """The processes that the launcher started, as one group; this one alone where there is no launcher."""
    from sprig.core.ranks import ALONE, present

    if processes() == 1:
        yield ALONE
        return
    import torch
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    backend = "gloo"
    if torch.cuda.is_available() and torch.cuda.device_count() >= _here():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        backend = "cpu:gloo,cuda:nccl"
    store, rank, size = next(iter(rendezvous("env://", timeout=timedelta(seconds=BEGIN))))
    pulse = Pulse(_line_to_the_store(), rank, size, give_up)
    before = signal.signal(signal.SIGTERM, _stopped)
    pulse.start()
    try:
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=NEVER)
        ranks = present()
        yield ranks
        ranks.meet()  # nobody leaves, and falls silent, while another still works
        pulse.over.set()
        signal.signal(signal.SIGTERM, before)  # after an error the line that says it comes first
    finally:
        if dist.is_initialized():
            with suppress(RuntimeError):  # the others may be gone already
                dist.destroy_process_group()
        pulse.over.set()


class Pulse(threading.Thread):
    """Signs of life; calls `lost` with words for it when one of the others stays silent."""

    def __init__(
        self, store: Any, rank: int, size: int, lost: Callable[[str], None], *,
        every: float = EVERY, patience: float = PATIENCE, begin: float = BEGIN,
    ) -> None:  # fmt: skip
        super().__init__(name="sprig-pulse", daemon=True)
        self.store, self.rank, self.lost = store, rank, lost
        self.others = [other for other in range(size) if other != rank]
        self.every, self.patience, self.begin = every, patience, begin
        self.over = threading.Event()

    def run(self) -> None:
        beats, seen = 0, dict.fromkeys(self.others, b"")
        heard = dict.fromkeys(self.others, time.monotonic())
        while not self.over.wait(self.every if beats else 0.0):
            beats += 1
            try:
                self.store.set(_key(self.rank), str(beats))
                found = {o: self._last(o) for o in self.others}
            except RuntimeError:  # whoever holds the store is gone, perhaps because all is done
                if not self.over.wait(2 * self.every):
                    self.lost("the process that holds the group together has ended")
                return
            now = time.monotonic()
            for other, sign in found.items():
                if sign != seen[other]:
                    seen[other], heard[other] = sign, now
                silent = now - heard[other]
                if (
                    silent > (self.patience if seen[other] else self.begin)
                    and not self.over.is_set()
                ):
                    self.lost(f"process {other} gave no sign of life for {silent:.0f} s")
                    return

    def _last(self, other: int) -> bytes:
        """The last sign of another process; empty while there is none."""
        key = _key(other)
        return bytes(self.store.get(key)) if self.store.check([key]) else b""


def give_up(why: str) -> None:
    """Say why and end at once, whatever the main thread waits for."""
    _say(f"error: {who()}{why}; {KEPT}")
    os._exit(LOST)


def _stopped(number: int, frame: Any) -> None:
    """torchrun stops all processes when one of them has ended."""
    _say(f"error: {who()}stopped by the launcher, as another process of this run has ended; {KEPT}")
    os._exit(STOPPED)


def _say(line: str) -> None:
    os.write(2, f"{line}\n".encode())


def _key(rank: int) -> str:
    return f"sprig/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{rank}"


def _line_to_the_store() -> Any:
    """A connection of its own: the group's may be waiting for something."""
    from torch.distributed import TCPStore

    return TCPStore(
        os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False,
        wait_for_workers=False, timeout=timedelta(seconds=PATIENCE),
    )  # fmt: skip


def _here() -> int:
    """Processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))
