"""Measured time of a forward pass: warm-up, median of several, stated spread."""

import copy
import statistics
import time
from collections.abc import Mapping

import torch
from torch import nn

from sprig.core.example import Example, at_batch
from sprig.core.timing import wait
from sprig.core.types import device_of


def latency(
    model: nn.Module, example: Example, *, batch: int = 1, repeats: int = 7, limit: float = 6.0
) -> Mapping[str, float]:
    """Milliseconds per call at a batch size: median, low and high of up to `repeats` within `limit` seconds.

    >>> row = latency(nn.Linear(4, 2), (torch.zeros(1, 4),), batch=3, repeats=3)
    >>> row["low"] <= row["median"] <= row["high"]
    True
    """
    args, kwargs = at_batch(example, batch)
    device = device_of(model)
    was = model.training
    model.eval()
    times: list[float] = []
    with torch.no_grad():
        start = time.perf_counter()
        model(*copy.deepcopy(args), **copy.deepcopy(kwargs))
        while len(times) < repeats and (len(times) < 3 or time.perf_counter() - start < limit):
            wait(device)
            begin = time.perf_counter()
            model(*args, **kwargs)
            wait(device)
            times.append((time.perf_counter() - begin) * 1e3)
    model.train(was)
    return {"median": statistics.median(times), "low": min(times), "high": max(times)}
