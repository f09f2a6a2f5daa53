"""What a process needs of memory to hold its calibration data; one figure per process, in units of the data."""

import ctypes
import json
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sprig.core.batches import as_batches
from sprig.workflow import begin

M_MMAP_THRESHOLD = -3  # as glibc numbers it
SAMPLES, EACH = 1024, 3 * 128 * 128 * 4
BYTES = SAMPLES * EACH  # 201 MB


def batches() -> Iterator[Tensor]:
    for number in range(SAMPLES // 8):
        yield torch.full((8, 3, 128, 128), float(number))


class Loader:
    """Can be read anew, holds nothing."""

    def __iter__(self) -> Iterator[Tensor]:
        return batches()

    def __len__(self) -> int:
        return SAMPLES // 8


class Peak(threading.Thread):
    """The most memory of its own that this process has, looked at every other millisecond."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.over = threading.Event()
        self.most = 0

    def run(self) -> None:
        while not self.over.wait(0.002):
            self.most = max(self.most, anonymous())


def anonymous() -> int:
    """Bytes that are not pages of libraries, which come as they are touched."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def hold(folder: str, kind: str, memory: str) -> None:
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if size > 1:
        dist.init_process_group("gloo")
    begin.trace = lambda *given, **more: begin._NO_GRAPH  # the export would need more than the data
    given = batches() if kind == "stream" else as_batches(Loader(), memory=float(memory))
    example = (torch.zeros(2, 3, 128, 128),)
    with suppress(
        AttributeError
    ):  # blocks go back to the system when they are freed, so no gaps are counted
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 2**16)
    before, peak = anonymous(), Peak()
    peak.start()
    bench, _, _, triples = begin.bench_for(
        nn.Conv2d(3, 2, 1), example, given, "refit", None, 0, None, "keep", None, size > 1
    )
    told = sum(float(chunk.args[0][: chunk.rows, 0, 0, 0].sum()) for chunk in bench.chunks)
    peak.over.set()
    peak.join()
    found = {
        "needed": (peak.most - before) / BYTES, "sum": told, "samples": bench.samples, "data": triples.description,
        "read again": len(triples) if rank == 0 else 0,
    }  # fmt: skip
    Path(folder, f"{rank}.json").write_text(json.dumps(found))
    if size > 1:
        dist.destroy_process_group()
