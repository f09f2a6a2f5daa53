"""Measured time of a forward pass: warm-up, median of several, stated spread."""

import copy
import statistics
import time
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sprig.core.batches import map_tensors
from sprig.core.example import Example, inputs_of, per_sample, samples_of


def latency(
    model: nn.Module, example: Example, *, batch: int = 1, repeats: int = 7, limit: float = 6.0
) -> Mapping[str, float]:
    """Milliseconds per call at a batch size: median, low and high of up to `repeats` within `limit` seconds.

    >>> row = latency(nn.Linear(4, 2), (torch.zeros(1, 4),), batch=3, repeats=3)
    >>> row["low"] <= row["median"] <= row["high"]
    True
    """

    given = samples_of(example)

    def fit(t: Tensor) -> Tensor:
        if not per_sample(t, given):
            return t
        return t[:1].expand(batch, *t.shape[1:]).contiguous()

    args, kwargs = map_tensors(inputs_of(example), fit)
    was = model.training
    model.eval()
    times: list[float] = []
    with torch.no_grad():
        start = time.perf_counter()
        model(*copy.deepcopy(args), **copy.deepcopy(kwargs))
        while len(times) < repeats and (len(times) < 3 or time.perf_counter() - start < limit):
            _wait()
            begin = time.perf_counter()
            model(*args, **kwargs)
            _wait()
            times.append((time.perf_counter() - begin) * 1e3)
    model.train(was)
    return {"median": statistics.median(times), "low": min(times), "high": max(times)}


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
