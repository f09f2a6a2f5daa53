"""Whole networks under the stopwatch: as the user will run them, and call by call."""

import copy
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from sprig.core.batches import map_tensors, tensors
from sprig.core.errors import InputError
from sprig.core.example import Example, Inputs, at_batch
from sprig.core.opbench import onnx_options
from sprig.core.replay import Replay, state_of
from sprig.core.timing import Call, Clock, Timing, optional, own_dtype, paired, threads, wait
from sprig.core.types import device_of


@dataclass(frozen=True)
class Observed:
    """What a dense network takes: the whole, and each call inside it (where that can be looked at)."""

    whole_ms: float
    node_ms: Mapping[str, float]


def inputs_for(example: Example, timing: Timing, device: torch.device) -> Inputs:
    """A batch of the setting, in its number format."""

    def fit(t: Tensor) -> Tensor:
        t = t.to(device)
        return t.to(timing.torch_dtype) if t.is_floating_point() else t

    args, kwargs = map_tensors(at_batch(example, timing.batch), fit)
    return args, kwargs


def cast(model: nn.Module, timing: Timing) -> nn.Module:
    """A copy for timing: evaluation mode, the number format of the setting.

    A model that has that format stays as it is, with whatever it keeps in another one.
    """
    twin = copy.deepcopy(model).eval()
    return twin if timing.dtype in (None, own_dtype(twin)) else twin.to(timing.torch_dtype)


def runnable(model: nn.Module, example: Example, timing: Timing) -> Call:
    """The network on a batch, ready to be called again and again in the backend of the setting."""
    timing = timing.of(model)
    twin = cast(model, timing)
    args, kwargs = inputs_for(example, timing, device_of(model))
    if timing.backend == "onnxruntime":
        return _onnx(twin, (args, kwargs), timing)
    run: Callable[..., Any] = twin
    if timing.backend == "torch.compile":
        run = _compiled(twin, (args, kwargs))

    def call() -> Any:
        with torch.no_grad():
            return run(*args, **kwargs)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call()
    except Exception as error:
        text = str(error).strip().split("\n")[0][:160]
        raise InputError(
            f"the model does not run in {timing.dtype} by {timing.backend} ({type(error).__name__}: {text}); "
            "choose another dtype or backend for timing"
        ) from error
    return call


def _compiled(model: nn.Module, inputs: Inputs) -> Callable[..., Any]:
    """By torch.compile, from an exported program of its own.

    torch compiles a `forward` for a few shapes only, and then runs it eagerly without a word: every plan of a model's
    class would count as one, and so would the user's own.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(model, inputs[0], inputs[1], strict=False).module()
        return torch.compile(program, dynamic=False)


def _onnx(model: nn.Module, inputs: Inputs, timing: Timing) -> Call:
    runtime = optional("onnxruntime")
    optional("onnxscript")
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = Path(folder) / "model.onnx"
        try:
            torch.onnx.export(
                model, inputs[0], str(file), kwargs=inputs[1], dynamo=True, verbose=False
            )
        except Exception as error:
            text = str(error).strip().split("\n")[0][:160]
            raise InputError(
                f"the model cannot be exported to ONNX for timing ({type(error).__name__}: {text}); "
                "choose the backend eager or torch.compile"
            ) from error
        count = timing.threads or torch.get_num_threads()
        session = runtime.InferenceSession(
            str(file), onnx_options(runtime, count), providers=["CPUExecutionProvider"]
        )
    names = [i.name for i in session.get_inputs()]
    given = {n: t.cpu().numpy() for n, t in zip(names, tensors(inputs), strict=True)}
    return lambda: session.run(None, given)


def compare(
    dense: nn.Module,
    small: nn.Module,
    example: Example,
    timing: Timing,
    *,
    patience: float = 1.0,
    ready: Call | None = None,
) -> dict[str, float]:
    """Both networks in turn, end to end: see `paired`. `patience`: times as long as the setting says.

    `ready`: what `runnable` made of the dense one.
    """
    with threads(timing.threads):
        calls = [ready or runnable(dense, example, timing), runnable(small, example, timing)]
        return paired(
            *calls, device=device_of(dense), pairs=timing.rounds, seconds=patience * timing.seconds
        )


def observe(model: nn.Module, replay: Replay, example: Example, timing: Timing) -> Observed:
    """The dense network end to end, and in eager mode every call of it."""
    device = device_of(model)
    call = runnable(model, example, timing)
    steps = Stepper(replay, cast(model, timing), inputs_for(example, timing, device))
    call()
    whole: list[float] = []
    inside: list[list[float]] = []
    inner = timing.backend == "eager"
    start = time.perf_counter()
    most = 5 * timing.rounds
    while len(whole) < timing.rounds or (
        len(whole) < most and time.perf_counter() - start < timing.seconds
    ):
        wait(device)
        begin = time.perf_counter()
        call()
        wait(device)
        whole.append((time.perf_counter() - begin) * 1e3)
        if inner:
            inside.append(steps.run())
    times = np.median(np.array(inside), axis=0) if inner else np.array([])
    return Observed(float(np.median(whole)), dict(zip(steps.names, times.tolist())))


class Stepper:
    """Runs an exported program call by call, each under the stopwatch."""

    def __init__(
        self, replay: Replay, model: nn.Module, inputs: Inputs, *, clock: Clock = time.perf_counter
    ) -> None:  # fmt: skip
        self.replay, self.clock, self.device = replay, clock, device_of(model)
        weights = state_of(model)
        constants = replay.program.constants
        self.known: dict[fx.Node, Any] = {
            n: weights[name] if name in weights else constants[name]
            for n, name in replay.tensor_of.items()
        }
        self.known.update(replay.constants)
        self.inputs = inputs
        self.names = [n.name for n in replay.nodes if n.op == "call_function"]

    def run(self) -> list[float]:
        """Milliseconds of each call, in order."""
        replay, device = self.replay, self.device
        live = replay.start(*map_tensors(self.inputs, torch.clone))
        values = {**self.known, **live.values}
        times = []
        with torch.no_grad():
            for i, node in enumerate(replay.nodes):
                if node.op != "call_function":
                    continue
                target: Any = node.target
                args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
                wait(device)
                begin = self.clock()
                values[node] = target(*args, **kwargs)
                wait(device)
                times.append((self.clock() - begin) * 1e3)
                for dead in replay.dies[i]:
                    values.pop(dead, None)
        return times
