"""The command line under torchrun: one group of processes, the first prints, and all end soon when one is gone.

What torchrun (or any launcher that sets RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT) started becomes a group: gloo
for what is on the CPU, nccl beside it where there is an accelerator for each. Every process gives a sign of life to
the group's store every few seconds and looks for those of the others, from a thread of its own, so that a process that
was killed or hangs is noticed while the others compute or wait, whatever the backend. Another thread hears when the
launcher stops this process: the main one may be waiting inside torch, where Python cannot be interrupted. However it
is noticed, the last line names the process that ended first: the one that is silent and did not take its leave. Who
finds out tells the others.
"""

import os
import signal
import socket
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
    from sprig.core.errors import RanksError
    from sprig.core.ranks import ALONE, present

    if processes() == 1:
        yield ALONE
        return
    import torch
    import torch.distributed as dist

    backend = "gloo"
    if torch.cuda.is_available() and torch.cuda.device_count() >= _here():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        backend = "cpu:gloo,cuda:nccl"
    last = Last()
    with heard(signal.SIGTERM, last.stopped):
        try:
            store = _met()
            last.pulse = pulse = _pulse(last.give_up)
            with _reaching(f"the {processes()} processes did not all find each other"):
                pulse.start()
                dist.init_process_group(
                    backend, store=store, rank=pulse.rank, world_size=processes(), timeout=NEVER
                )
            ranks = present()
            yield ranks
            ranks.meet()  # nobody leaves, and falls silent, while another still works
        except RanksError as error:
            if last.pulse is not None and not error.told:
                last.give_up(last.pulse.missing() or str(error))
            last.leave()
            raise
        except BaseException:
            last.leave(f"process {os.environ['RANK']} ended with an error")
            raise
        finally:
            if last.pulse is not None:
                last.pulse.over.set()
            if dist.is_initialized():
                with suppress(RuntimeError):  # the others may be gone already
                    dist.destroy_process_group()


def _met() -> Any:
    """The store through which all find each other; it is there when all have come."""
    from torch.distributed.rendezvous import rendezvous

    with _reaching(f"not all of the {processes()} processes came within {BEGIN:.0f} s"):
        store, *_ = next(iter(rendezvous("env://", timeout=timedelta(seconds=BEGIN))))
    return store


def _pulse(lost: Callable[[str], None]) -> "Pulse":
    """On a connection of its own, as the group's may be waiting for something."""
    from torch.distributed import TCPStore

    with _reaching("the store of the group is gone"):
        line = TCPStore(
            os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False,
            wait_for_workers=False, timeout=timedelta(seconds=PATIENCE),
        )  # fmt: skip
    return Pulse(line, int(os.environ["RANK"]), processes(), lost)


@contextmanager
def _reaching(what: str) -> Iterator[None]:
    """What torch raises while the group is made, as an error of ours."""
    from sprig.core.errors import RanksError

    try:
        yield
    except RuntimeError as error:
        raise RanksError(f"{what} ({str(error).splitlines()[0]}); start them again") from error


class Last:
    """The last words of a process that ends because of another: once, and at once, whatever the main thread does."""

    def __init__(self) -> None:
        self.pulse: Pulse | None = None
        self.once = threading.Lock()

    def leave(self, why: str = "") -> None:
        """From here on no other thread says anything. The other processes hear why."""
        self.once.acquire()
        if self.pulse is not None:
            self.pulse.leave(why)

    def give_up(self, why: str) -> None:
        """Say why and end."""
        self.leave(why)
        self._end(why, LOST)

    def stopped(self) -> None:
        """torchrun stops all processes when one of them has ended."""
        why = "" if self.pulse is None else self.pulse.missing()
        self.leave(why)
        self._end(why or "stopped by the launcher", STOPPED)

    def _end(self, why: str, code: int) -> None:
        os.write(2, f"error: {who()}{why}; {KEPT}\n".encode())
        if self.pulse is not None and self.pulse.rank == 0 and not _launcher_holds_the_store():
            time.sleep(2 * self.pulse.every)  # the others read there what happened
        os._exit(code)


@contextmanager
def heard(number: int, call: Callable[[], None]) -> Iterator[None]:
    """Call from a thread of its own when the signal comes, at once, whatever the main thread does."""
    ear, mouth = socket.socketpair()
    mouth.setblocking(False)

    def listen() -> None:
        with ear:
            while said := ear.recv(1):
                if said[0] == number:
                    call()

    listener = threading.Thread(target=listen, name="sprig-signal", daemon=True)
    before = signal.signal(number, lambda *_: None)
    wakeup = signal.set_wakeup_fd(mouth.fileno(), warn_on_full_buffer=False)
    listener.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        signal.signal(number, before)
        mouth.close()  # which ends the listener


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

    def start(self) -> None:
        """The first sign is given before anything can go wrong."""
        self.store.set(_key(self.rank), "0")
        super().start()

    def run(self) -> None:
        beats, seen = 0, dict.fromkeys(self.others, b"")
        heard = dict.fromkeys(self.others, time.monotonic())
        while not self.over.wait(self.every if beats else 0.0):
            beats += 1
            try:
                self.store.set(_key(self.rank), str(beats))
                found = {o: self._last(_key(o)) for o in self.others}
                verdict = self._last(_key("verdict")).decode()
            except RuntimeError:  # whoever holds the store is gone, perhaps because all is done
                if not self.over.wait(2 * self.every):
                    self.lost(_holder())
                return
            if verdict and not self.over.is_set():
                self.lost(verdict)
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

    def missing(self) -> str:
        """Which process ended, in words: what another found out, or whoever stays silent; empty where nobody does."""
        try:
            before = {o: self._last(_key(o)) for o in self.others}
            if not self._last(_key("verdict")):
                time.sleep(2.5 * self.every)  # all that live give a sign
            if verdict := self._last(_key("verdict")).decode():
                return verdict
            silent = [o for o in self.others if self._last(_key(o)) == before[o]]
            gone = [str(o) for o in silent if not self._last(_key(o, "left"))]
        except RuntimeError:
            return _holder()
        more = len(gone) > 1
        return (
            f"process{'es' * more} {', '.join(gone)} ended or hang{'s' * (not more)}"
            if gone
            else ""
        )

    def leave(self, why: str = "") -> None:
        """Tell those who are still there that the silence to come is not where it began, and where that was."""
        with suppress(RuntimeError):
            self.store.set(_key(self.rank, "left"), "yes")
            if why:
                self.store.set(_key("verdict"), why)

    def _last(self, key: str) -> bytes:
        """What was written there last; empty while there is nothing."""
        return bytes(self.store.get(key)) if self.store.check([key]) else b""


def _holder() -> str:
    """Who is gone when the store is."""
    if _launcher_holds_the_store():
        return "the launcher has ended"
    return "process 0, which holds the group together, has ended"


def _launcher_holds_the_store() -> bool:
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _key(*parts: object) -> str:
    start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return "/".join(["sprig", start, *map(str, parts)])


def _here() -> int:
    """Processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))
