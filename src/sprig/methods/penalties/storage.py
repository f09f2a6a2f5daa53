"""What zeros are worth on disk and on the clock: bytes of every form, and the measured time of a layer in each.

A dense tensor with zeros takes as long as one without. Compressed rows (CSR) can be faster where very little stays;
a convolution has to unfold its input for them. A bitmap is a form for the disk alone: it is dense again once loaded.
"""

import time
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sprig.core import compact

ROUNDS, SPAN = 9, 1e-3  # of one measurement; seconds that a round lasts at least

Call = Callable[[], Tensor]


def calls(module: nn.Module, inputs: Tensor) -> dict[str, Call]:
    """How one layer can be computed: densely, and with compressed rows where there is such a way."""
    if isinstance(module, nn.Linear):
        rows = inputs.reshape(-1, inputs.shape[-1])
        weight, bias = module.weight.detach(), _bias(module)
        sparse = csr(weight)
        return {
            "dense": lambda: F.linear(rows, weight, bias),
            "csr": lambda: (sparse @ rows.T).T + (0.0 if bias is None else bias),
        }
    found: dict[str, Call] = {"dense": lambda: module(inputs)}
    plain = isinstance(module, nn.Conv2d) and module.groups == 1 and module.padding_mode == "zeros"
    if isinstance(module, nn.Conv2d) and plain and not isinstance(module.padding, str):
        sparse, bias = csr(module.weight.detach().flatten(1)), _bias(module)
        size = module.kernel_size, module.dilation, module.padding, module.stride
        shape = module(inputs).shape

        def unfolded() -> Tensor:
            columns = F.unfold(inputs, *size)  # (samples, block, positions)
            out = sparse @ columns.movedim(1, 0).reshape(columns.shape[1], -1)
            out = out.reshape(shape[1], len(inputs), -1).movedim(0, 1).reshape(shape)
            return out if bias is None else out + bias.reshape(-1, 1, 1)

        found["csr"] = unfolded
    return found


def csr(matrix: Tensor) -> Tensor:
    """Compressed rows; torch says at every one of them that its own support is young."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Sparse CSR tensor support.*")
        return matrix.to_sparse_csr()


def _bias(module: Any) -> Tensor | None:
    return None if module.bias is None else module.bias.detach()


@torch.no_grad()
def timed(
    ways: Mapping[str, Call], *, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Microseconds of each, measured in turns: the quickest of several rounds, which other work disturbs least.

    `clock`: `time.thread_time` for calls on one thread, on a machine that has other work.
    """
    repeats = {}
    for name, call in ways.items():
        call()
        start = clock()
        call()
        repeats[name] = max(1, round(SPAN / max(clock() - start, 1e-7)))
    seen: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, call in ways.items():
            start = clock()
            for _ in range(repeats[name]):
                call()
            seen[name].append((clock() - start) / repeats[name])
    return {name: 1e6 * min(values) for name, values in seen.items()}


def stored(
    model: nn.Module, masks: Mapping[str, Tensor], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Per masked tensor: its form by bytes, the bytes of all forms, and the time of its layer on one input."""
    layers = {f"{n}.weight": m for n, m in model.named_modules() if f"{n}.weight" in masks}
    heard: dict[str, Tensor] = {}

    def listen(name: str, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        heard.setdefault(name, inputs[0].detach()[:1])

    handles = [
        module.register_forward_pre_hook(partial(listen, name))
        for name, module in layers.items()
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd)
    ]
    training = model.training
    try:
        with torch.no_grad():
            model.eval()(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    rows = []
    parameters = dict(model.named_parameters())
    for name in masks:
        tensor = parameters[name].detach()
        row: dict[str, Any] = {"name": name, "form": compact.smallest(tensor)}
        row["bytes"] = compact.sizes(tensor)
        if name in heard:
            row["microseconds"] = timed(calls(layers[name], heard[name]))
        rows.append(row)
    model.train(training)
    return rows
