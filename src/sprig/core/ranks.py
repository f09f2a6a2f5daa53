"""Several processes on one search: who does which part, and every collective call in one place.

All processes run the same program and meet in the same calls in the same order. Work is dealt by number, sums are
all-reduced, and what is decided is decided once: the first process computes it, or each process its share, and all go
on with the same bits. Values travel as safetensors, never as pickles. One process alone: everything is a no-op.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from sprig.core.errors import InputError, RanksError
from sprig.core.stages import from_bytes, to_bytes

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among those that search together.

    >>> ALONE.each([1, 2, 3], lambda n: n * n), ALONE.lead(lambda: 7), ALONE.mine(5)
    ([1, 4, 9], 7, True)
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes, prints and measures time."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        return self.size == 1

    def mine(self, number: int) -> bool:
        """Whether the piece of work of that number is done here."""
        return number % self.size == self.rank

    def add_(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place. Whole numbers below 2^53 in float64 add up to the same bits always."""
        if not self.alone:
            place = _reachable(tensor)
            self._call(lambda: dist.all_reduce(place))
            if place is not tensor:
                tensor.copy_(place)
        return tensor

    def spread_(self, tensor: Tensor) -> Tensor:
        """What the first process holds in a tensor of this shape, in place."""
        if not self.alone:
            place = _reachable(tensor)
            self._call(lambda: dist.broadcast(place, 0))
            if place is not tensor:
                tensor.copy_(place)
        return tensor

    def lead(self, compute: Callable[[], T], *, records: Iterable[type] = ()) -> T:
        """What the first process computes; all others wait for it. Its errors are theirs."""
        if self.alone:
            return compute()
        records = tuple(records)
        if self.first:
            try:
                value = compute()
                sent = to_bytes(("value", value), records=records)
            except Exception as error:
                self._send(to_bytes(("error", str(error))), 0)
                raise
            return self._read(self._send(sent, 0), records)
        return self._read(self._send(None, 0), records)

    def each(
        self, items: Sequence[Any], ask: Callable[[Any], T], *, records: Iterable[type] = ()
    ) -> list[T]:
        """`ask` of every item, each asked in one process, in the order of the items."""
        if self.alone:
            return [ask(item) for item in items]
        own = [ask(item) for number, item in enumerate(items) if self.mine(number)]
        parts = [iter(part) for part in self.gather(own, records=records)]
        return [next(parts[number % self.size]) for number in range(len(items))]

    def gather(self, value: T, *, records: Iterable[type] = ()) -> list[T]:
        """The values of all processes, in their order."""
        if self.alone:
            return [value]
        records = tuple(records)
        packed = to_bytes(("value", value), records=records)
        return [
            self._read(self._send(packed if source == self.rank else None, source), records)
            for source in range(self.size)
        ]

    def meet(self) -> None:
        """Wait until all are here."""
        self.add_(torch.zeros(1, dtype=torch.float64))

    def _send(self, data: bytes | None, source: int) -> bytes:
        """The bytes of one process, in all."""
        length = _reachable(torch.tensor([len(data or b"")]))
        self._call(lambda: dist.broadcast(length, source))
        body = torch.empty(int(length), dtype=torch.uint8)
        if data is not None:
            body = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        body = _reachable(body)
        self._call(lambda: dist.broadcast(body, source))
        return data if data is not None else bytes(body.cpu().numpy())

    def _read(self, data: bytes, records: Iterable[type]) -> Any:
        kind, value = from_bytes(data, records=records)
        if kind == "error":
            raise RanksError(f"process 0 of {self.size} stopped: {value}", told=True)
        return value

    def _call(self, collective: Callable[[], Any]) -> None:
        try:
            collective()
        except RuntimeError as error:  # a peer closed its connection, or the group's time ran out
            line = str(error).splitlines()[0]
            raise RanksError(
                f"process {self.rank} of {self.size} cannot reach the others, one of them has ended or hangs; what is "
                f"finished is kept, resume the run ({line})"
            ) from error


ALONE = Ranks()


def present() -> Ranks:
    """All processes of torch.distributed's default group."""
    if not (dist.is_available() and dist.is_initialized()):
        raise InputError(
            "processes=True, but torch.distributed is not initialised here; call init_process_group first, or start "
            "the command line with torchrun"
        )
    return Ranks(dist.get_rank(), dist.get_world_size())


def _reachable(tensor: Tensor) -> Tensor:
    """The tensor where the group can send it from: nccl wants the accelerator, gloo takes what it gets."""
    known = [pair.split(":")[0] for pair in dist.get_backend_config().split(",")]
    if tensor.device.type in known and tensor.is_contiguous():
        return tensor
    if tensor.device.type in known:
        return tensor.contiguous()
    return tensor.contiguous().to(torch.device(known[0], torch.accelerator.current_device_index()))
