"""One operation of a program, alone, at other widths: what a latency table is measured on."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from sprig.core.timing import Timing, optional, sweeps, wait

ARENA = 16_000_000  # numbers at least: more than near caches hold, so that weights come from afar
BLOCK = 160  # operations measured in one sweep: as many as libraries keep prepared kernels for


@dataclass(frozen=True)
class Blank:
    """A tensor of which only the form is known."""

    shape: tuple[int, ...]
    dtype: str

    def __repr__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


@dataclass(frozen=True, eq=False)
class Op:
    """A call with blanks for tensors. Equal keys take equally long."""

    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def key(self) -> str:
        named = ", ".join(f"{k}={v!r}" for k, v in sorted(self.kwargs.items()))
        return f"{self.target}({', '.join(map(repr, self.args))}{'; ' + named if named else ''})"


def blank_op(node: fx.Node) -> Op:
    """The call as it stands in the program."""
    args, kwargs = pytree.tree_map_only(fx.Node, _blank, (node.args, dict(node.kwargs)))
    return Op(node.target, tuple(args), kwargs)


def _blank(node: fx.Node) -> Any:
    value = node.meta.get("val")
    if isinstance(value, list | tuple):
        return [_blank_of(v) for v in value]
    return _blank_of(value)


def _blank_of(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return Blank(tuple(int(s) for s in value.shape), str(value.dtype).removeprefix("torch."))


def contraction(op: Op, inside: int, outside: int) -> Op:
    """A convolution or linear map with other widths. Of a grouped one, `outside` counts; its groups go with it."""
    x, w = op.args[:2]
    args = list(op.args)
    back = _transposed(op)  # its weight is (inputs, outputs / groups)
    if _groups(op) > 1:
        per_in, per_out = w.shape[0] // _groups(op), w.shape[1]
        if not back:
            per_in, per_out = per_out, per_in
        left = max(1, outside // per_out)
        inside, outside = left * per_in, left * per_out
        args += conv_defaults(op)[len(args) - 2 :]
        args[6] = left
        args[1] = Blank((inside if back else outside, *w.shape[1:]), w.dtype)
        args[0] = Blank((x.shape[0], inside, *x.shape[2:]), x.dtype)
    else:
        two = (inside, outside) if back else (outside, inside)
        args[1] = Blank((*two, *w.shape[2:]), w.dtype)
        linear = len(w.shape) == 2
        shape = (*x.shape[:-1], inside) if linear else (x.shape[0], inside, *x.shape[2:])
        args[0] = Blank(shape, x.dtype)
    if len(args) > 2 and isinstance(args[2], Blank):
        args[2] = Blank((outside,), args[2].dtype)
    return Op(op.target, tuple(args), op.kwargs)


def _transposed(op: Op) -> bool:
    return str(op.target).startswith("aten.conv_transpose")


def conv_defaults(op: Op) -> list[Any]:
    """What a convolution's arguments behind input and weight are when they are not given."""
    spatial = len(op.args[1].shape) - 2
    ones, zeros = [1] * spatial, [0] * spatial
    return [None, ones, zeros, zeros, 1, ones] if _transposed(op) else [None, ones, zeros, ones, 1]


def _groups(op: Op) -> int:
    return int(op.args[6]) if len(op.args) > 6 else 1


def pointwise(op: Op, dim: int, full: int, width: int, *, ndim: int) -> Op:
    """An operation without contraction on fewer channels: `full` -> `width` in dimension `dim` of `ndim`."""

    def narrow(leaf: Any) -> Any:
        if not isinstance(leaf, Blank):
            return leaf
        shape = list(leaf.shape)
        at = dim - ndim + len(shape)  # aligned on the right, as broadcasting does
        if len(shape) > 1 and at >= 0 and shape[at] == full:
            shape[at] = width
        elif shape == [full]:
            shape = [width]
        return Blank(tuple(shape), leaf.dtype)

    def numbers(arg: Any) -> Any:
        return [width] if arg == [full] else arg  # e.g. the shape that a layer norm runs over

    args = [numbers(a) for a in op.args]
    args, kwargs = pytree.tree_map(
        narrow, (args, dict(op.kwargs)), is_leaf=lambda v: isinstance(v, Blank)
    )
    return Op(op.target, tuple(args), kwargs)


class Bench:
    """Measures operations. Tensors are pieces of one arena, cut at changing places."""

    def __init__(self, timing: Timing, device: torch.device) -> None:
        self.timing, self.device = timing, device
        self.draw = np.random.default_rng(0)
        self.arenas: dict[str, Tensor] = {}

    def __call__(self, ops: Sequence[Op], progress: Callable[[int, int], None]) -> list[float]:
        """Milliseconds of each; infinite where an operation does not run at that width."""
        found: list[float] = []
        for start in range(0, len(ops), BLOCK):
            calls: list[Callable[[], Any]] = []
            alive = []
            for i, op in enumerate(ops[start : start + BLOCK]):
                try:
                    call = self.callable(op)
                    call()
                except Exception:  # a width that this operation does not take
                    continue
                calls.append(call)
                alive.append(i)
            times = np.full(len(ops[start : start + BLOCK]), math.inf)
            if calls:
                with torch.no_grad():
                    times[alive] = sweeps(
                        calls,
                        rounds=self.timing.rounds,
                        seconds=self.timing.seconds,
                        device=self.device,
                    )
            found += times.tolist()
            progress(min(start + BLOCK, len(ops)), len(ops))
        wait(self.device)
        return found

    def callable(self, op: Op) -> Callable[[], Any]:
        if self.timing.backend == "onnxruntime" and _onnx_kind(op) is not None:
            return _onnx_call(op, self.timing.threads or torch.get_num_threads())
        args, kwargs = pytree.tree_map(
            self._tensor, (op.args, op.kwargs), is_leaf=lambda v: isinstance(v, Blank)
        )
        target = op.target

        def call() -> Any:
            with torch.no_grad():
                return target(*args, **kwargs)

        return call

    def _tensor(self, leaf: Any) -> Any:
        if not isinstance(leaf, Blank):
            return leaf
        dtype = getattr(torch, leaf.dtype)
        if not dtype.is_floating_point:
            return torch.zeros(leaf.shape, dtype=dtype, device=self.device)
        need = math.prod(leaf.shape)
        arena = self.arenas.get(leaf.dtype)
        if arena is None or arena.numel() < need + 1024:
            draw = torch.Generator().manual_seed(0)
            made = torch.rand(max(ARENA, need + 1024), generator=draw).to(self.device)
            arena = self.arenas[leaf.dtype] = (made * 0.1).to(dtype)
        place = int(self.draw.integers(0, (arena.numel() - need) // 64 + 1)) * 64
        return arena[place : place + need].view(leaf.shape)


def _onnx_kind(op: Op) -> str | None:
    name = str(op.target)
    if name in ("aten.conv1d.default", "aten.conv2d.default", "aten.conv3d.default"):
        return "Conv"
    return "MatMul" if name == "aten.linear.default" else None


def _onnx_call(op: Op, threads: int) -> Callable[[], Any]:
    """A model of one node, run by ONNX Runtime."""
    onnx, runtime = optional("onnx"), optional("onnxruntime")
    helper, number = onnx.helper, onnx.TensorProto.FLOAT
    x, w = op.args[:2]
    draw = np.random.default_rng(0)
    weight = draw.random(w.shape, dtype=np.float32) * np.float32(0.1)
    shape = list(x.shape)
    if _onnx_kind(op) == "MatMul":
        node = helper.make_node("MatMul", ["x", "w"], ["y"])
        weight = np.ascontiguousarray(weight.T)
    else:
        spatial = len(w.shape) - 2
        args = [*op.args, *conv_defaults(op)[len(op.args) - 2 :]]
        stride, pad, dilation = (
            (list(v) * spatial)[:spatial] if isinstance(v, list | tuple) else [v] * spatial
            for v in args[3:6]
        )
        node = helper.make_node(
            "Conv", ["x", "w"], ["y"], strides=stride, pads=[*pad, *pad], dilations=dilation, group=args[6]
        )  # fmt: skip
    graph = helper.make_graph(
        [node], "one",
        [helper.make_tensor_value_info("x", number, shape)],
        [helper.make_tensor_value_info("y", number, None)],
        [onnx.numpy_helper.from_array(weight, "w")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    session = runtime.InferenceSession(
        model.SerializeToString(),
        onnx_options(runtime, threads, spin=False),
        providers=["CPUExecutionProvider"],
    )
    given = {"x": draw.random(shape, dtype=np.float32)}
    return lambda: session.run(None, given)


def onnx_options(runtime: Any, threads: int, *, spin: bool = True) -> Any:
    """How a session runs: on so many threads, which may spin while they wait for the next call."""
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    if not spin:  # of many sessions at once, each would spin in the way of the others
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options
