"""How a network is timed: the setting, the machine, and stopwatches that drift does not fool.

Two things are compared by measuring them in turn, in the same run; many things are measured in sweeps, each sweep
beside a reference whose change from sweep to sweep is taken out.
"""

import collections
import importlib
import math
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from sprig.core.errors import InputError

Clock = Callable[[], float]  # seconds
Call = Callable[[], Any]

BACKENDS = ("eager", "torch.compile", "onnxruntime")
DTYPES = ("float32", "bfloat16", "float16", "float64")
MOST = 199  # pairs
SURE = 0.02  # how well a median should be known
PATIENT = 4  # times as long, until it is
SLICE, MANY = (
    20.0,
    64,
)  # milliseconds that one measurement of a pair should take; calls in it at most


@dataclass(frozen=True)
class Timing:
    """On what a latency holds: batch size, threads, number format and what runs the network.

    >>> Timing(batch=16, dtype=torch.bfloat16).dtype
    'bfloat16'
    """

    batch: int = 1  # samples per call
    threads: int | None = None  # CPU threads; those that torch has when not given
    dtype: Any = None  # float32, bfloat16, float16 or float64; the model's own when not given
    backend: str = "eager"  # eager, torch.compile or onnxruntime
    rounds: int = 7  # measurements of each thing, of which the median counts
    seconds: float = 2.0  # that one measurement may take for more than those rounds
    cache: str | None = None  # folder of measured tables; by the environment when not given
    refresh: bool = False  # measure again what the cache knows

    def __post_init__(self) -> None:
        if self.dtype is not None:
            object.__setattr__(self, "dtype", str(self.dtype).removeprefix("torch."))
        for name, least in (("batch", 1), ("rounds", 3), ("threads", 1)):
            value = getattr(self, name)
            if value is None and name == "threads":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InputError(f"timing {name}={value!r}: expected a number of at least {least}")
        if not isinstance(self.seconds, Real) or not 0 <= self.seconds < math.inf:
            raise InputError(f"timing seconds={self.seconds!r}: expected a number of at least 0")
        for name, known in (("dtype", DTYPES), ("backend", BACKENDS)):
            if getattr(self, name) not in (*known, *([None] if name == "dtype" else [])):
                raise InputError(
                    f"timing {name}={getattr(self, name)!r}; known are {', '.join(known)}"
                )
        if self.backend == "onnxruntime" and self.dtype not in (None, "float32"):
            raise InputError("timing backend 'onnxruntime' is measured in float32 only")

    @property
    def torch_dtype(self) -> torch.dtype:
        found: torch.dtype = getattr(torch, self.dtype or "float32")
        return found

    def of(self, model: nn.Module) -> "Timing":
        """With the number format that a model has, where none was given."""
        return self if self.dtype is not None else replace(self, dtype=own_dtype(model))

    def setting(self, device: torch.device) -> dict[str, Any]:
        """What a measured number depends on, beside the network."""
        version = str(torch.__version__)
        if self.backend == "onnxruntime":
            version = f"{version}, onnxruntime {optional('onnxruntime').__version__}"
        return {
            "device": machine(device),
            "batch": self.batch,
            "threads": self.threads or torch.get_num_threads(),
            "dtype": str(self.torch_dtype).removeprefix("torch."),
            "backend": self.backend,
            "torch": version,
        }


def own_dtype(model: nn.Module) -> str:
    """The number format of most weights of a model, of those that can be timed in."""
    counts = collections.Counter({DTYPES[0]: 0})
    for tensor in (*model.parameters(), *model.buffers()):
        name = str(tensor.dtype).removeprefix("torch.")
        if name in DTYPES:
            counts[name] += tensor.numel()
    return counts.most_common(1)[0][0]


def machine(device: torch.device) -> str:
    """The name of the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    file = Path("/proc/cpuinfo")
    text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    models = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
    name = models[0] if models else platform.processor() or platform.machine()
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"


def optional(name: str, *, extra: str = "onnx") -> Any:
    """A module that only some installations have."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"this needs the package {name}: pip install 'torch-sprig[{extra}]'"
        ) from error


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """A number of CPU threads for a while."""
    before = torch.get_num_threads()
    try:
        if count is not None and count != before:
            torch.set_num_threads(count)
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


def wait(device: torch.device) -> None:
    """Until the device has finished; work on a GPU goes on after the call returns."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def sweeps(
    calls: Sequence[Call], *, rounds: int, device: torch.device, seconds: float = 2.0,
    clock: Clock = time.perf_counter,
) -> np.ndarray:  # fmt: skip
    """Milliseconds of each call: the median over sweeps through all of them, each to and fro.

    Between two measurements of one call lie all others, so that its memory is as cold as it is in a network, and a
    slow second does not fall on one call alone. What the reference shows of the machine's drift is divided out.
    """
    draw = torch.Generator().manual_seed(0)
    probe = torch.rand(192, 192, generator=draw).to(device)
    for call in calls:  # the first call makes what later ones find
        call()
    once = max(sum(_once(call, device, clock) for call in calls) / 1e3, 1e-6)
    rounds = min(
        5 * rounds, max(rounds, round(seconds / once))
    )  # what is short is measured more often
    seen = np.zeros((rounds, len(calls)))
    drift = np.zeros(rounds)
    for r in range(rounds):
        drift[r] = statistics.median(_once(lambda: probe @ probe, device, clock) for _ in range(5))
        order = range(len(calls)) if r % 2 == 0 else reversed(range(len(calls)))
        for i in order:
            seen[r, i] = _once(calls[i], device, clock)
    usual = float(np.median(drift))
    drift = np.clip(drift / usual, 0.5, 2.0) if usual > 0 else np.ones(rounds)
    return np.median(seen / drift[:, None], axis=0)


def paired(
    dense: Call, small: Call, *, device: torch.device, pairs: int = 7, seconds: float = 2.0,
    clock: Clock = time.perf_counter,
) -> dict[str, float]:  # fmt: skip
    """Two calls in turn: medians in milliseconds, and the median and quartiles of the ratio within pairs.

    At least `pairs`, 7 or more; as many as fit into `seconds`, up to 199. What is short is called several times for one
    measurement, so that a slice of time that the machine gives to somebody else does not decide it. Where the ratios
    scatter so much that their median is not known to 2%, it goes on for up to four times as long.
    """
    for call in (dense, small):
        call()
    once = [_once(call, device, clock) for call in (dense, small)]
    times = max(1, min(MANY, round(SLICE / max(sum(once) / 2, 1e-6))))
    dense, small = _often(dense, times), _often(small, times)
    found: list[tuple[float, float]] = []
    start = clock()
    while len(found) < max(pairs, 7) or (
        len(found) < MOST and clock() - start < seconds * (PATIENT if _unsure(found) else 1)
    ):
        if len(found) % 2 == 0:  # who comes first changes, so that drift falls on both
            a = _once(dense, device, clock)
            b = _once(small, device, clock)
        else:
            b = _once(small, device, clock)
            a = _once(dense, device, clock)
        found.append((a, b))
    a_all, b_all = np.array(found).T / times
    ratios = b_all / np.maximum(a_all, 1e-12)
    low, high = np.quantile(ratios, (0.25, 0.75))
    return {
        "dense_ms": float(np.median(a_all)),
        "small_ms": float(np.median(b_all)),
        "ratio": float(np.median(ratios)),
        "low": float(low),
        "high": float(high),
        "pairs": len(found),
    }


def _unsure(found: list[tuple[float, float]]) -> bool:
    """Whether the quartiles of the ratio leave its median open by more than 2%."""
    a, b = np.array(found).T
    low, middle, high = np.quantile(b / np.maximum(a, 1e-12), (0.25, 0.5, 0.75))
    return bool(high - low > SURE * middle * len(found) ** 0.5)


def _often(call: Call, times: int) -> Call:
    def run() -> None:
        for _ in range(times):
            call()

    return run


def _once(call: Call, device: torch.device, clock: Clock) -> float:
    wait(device)
    begin = clock()
    call()
    wait(device)
    return (clock() - begin) * 1e3


def brief(setting: Mapping[str, Any]) -> str:
    """A setting in words.

    >>> brief({"batch": 1, "threads": 2, "dtype": "float32", "backend": "eager", "device": "X"})
    'batch 1, 2 threads, float32, eager, on X'
    """
    count = setting["threads"]
    return (
        f"batch {setting['batch']}, {count} {'thread' if count == 1 else 'threads'}, "
        f"{setting['dtype']}, {setting['backend']}, on {setting['device']}"
    )
