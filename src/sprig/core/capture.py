"""Run `torch.export` on a copy of the user's model and say where it fails, if it fails."""

import contextlib
import copy
import io
import logging
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from sprig.core.errors import InputError, TraceError
from sprig.core.example import leading
from sprig.core.recurrent import apart
from sprig.core.wide import Widening


def capture(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    *,
    train: bool = False,
) -> torch.export.ExportedProgram:
    """The ATen program of one forward pass. The model given is not touched: a copy is exported."""
    check_example(args, kwargs)
    try:
        twin = copy.deepcopy(model).train(train)
    except Exception as error:
        raise TraceError(
            f"the model cannot be deep-copied ({_line(error)}); sprig works on a copy so that yours stays as it is: "
            "detach tensors that the module keeps from an earlier forward pass"
        ) from error
    _without_caches(twin)
    try:
        own = pytree.tree_map(_apart, (tuple(args), dict(kwargs or {})))
        with warnings.catch_warnings(), _quiet(), torch.no_grad():
            warnings.simplefilter(
                "ignore"
            )  # export's own deprecation notes say nothing about the model
            return apart(inlined(torch.export.export(twin, own[0], own[1], strict=False)))
    except Exception as error:
        raise TraceError(
            f"the model cannot be exported at {_where(error)}: {_line(error)}; make that line independent of "
            "the values in tensors, or trace submodules without it"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Export prints the whole graph so far where it meets a branch on values; our error names the line instead."""
    logger = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    level, said = logger.level, io.StringIO()
    logger.setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(said):
            yield
        sys.stderr.write(said.getvalue())  # of an export that went well, e.g. the model's own words
    finally:
        logger.setLevel(level)


def _without_caches(twin: nn.Module) -> None:
    """Keys and values for later calls are no part of the answer: language models leave them out when told so."""
    for module in twin.modules():
        config = getattr(module, "config", None)
        if getattr(config, "use_cache", None) is True:
            config.use_cache = False  # type: ignore[union-attr]  # the copy's own


def inlined(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Regions that only switch autocast off or gradients on or off become plain nodes of the one graph."""
    graph = program.graph_module.graph
    for node in list(graph.nodes):
        at = {"wrap_with_autocast": 4, "wrap_with_set_grad_enabled": 1}.get(str(node.target))
        if node.op != "call_function" or at is None or (at == 4 and node.args[2]):
            continue
        results = _spliced(program.graph_module, graph, node, at)
        for user in list(node.users):
            user.replace_all_uses_with(results[user.args[1]])
            graph.erase_node(user)
        if not node.users:
            graph.erase_node(node)
    program.graph_module.recompile()
    return program


def _spliced(owner: Any, graph: fx.Graph, node: fx.Node, at: int) -> Any:
    """Copy the body of a region in front of its node; what the region gives back."""
    body = getattr(owner, str(node.args[at].target)).graph  # type: ignore[union-attr]
    places = [n for n in body.nodes if n.op == "placeholder"]
    known: dict[Any, Any] = dict(zip(places, node.args[at + 1 :], strict=True))
    with graph.inserting_before(node):
        for inner in body.nodes:
            if inner.op == "output":
                return pytree.tree_map(lambda n: known.get(n, n), inner.args[0])
            if inner.op != "placeholder":
                known[inner] = graph.node_copy(inner, lambda n: known[n])
    return ()


def _apart(leaf: Any) -> Any:
    """A tensor of its own: export takes one tensor that is given twice for one input."""
    return leaf.detach().clone() if isinstance(leaf, Tensor) else leaf


def check_example(args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None) -> None:
    """Refuse example inputs that no model can be run on."""
    if not isinstance(args, tuple):
        raise InputError(
            f"example_inputs is a {type(args).__name__}, expected a tuple of the model's arguments, e.g. (x,)"
        )
    tensors = [
        leaf for leaf in pytree.tree_leaves((args, dict(kwargs or {}))) if isinstance(leaf, Tensor)
    ]
    if not tensors:
        raise InputError(
            "example_inputs holds no tensor; expected the model's arguments, e.g. (x,)"
        )
    for leaf in tensors:
        if leaf.dim() and leaf.shape[0] == 0:
            raise InputError(f"example input of shape {tuple(leaf.shape)} is empty")


def batch_size(args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None) -> int:
    """How many samples a call holds, see `example.leading`."""
    leaves = pytree.tree_leaves((args, dict(kwargs or {})))
    return leading([leaf for leaf in leaves if isinstance(leaf, Tensor)])


def _line(error: BaseException) -> str:
    """First line of an error's message."""
    text = str(error).strip().split("\n")[0].strip()
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__


def _where(error: BaseException) -> str:
    """Innermost frame of the user's own code in the traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    outside = [
        f for f in frames if "/torch/" not in f.filename and "/sprig/core/" not in f.filename
    ]
    chosen = outside[-1] if outside else (frames[-1] if frames else None)
    return f"{chosen.filename}:{chosen.lineno} ({chosen.name})" if chosen else "an unknown line"


def stopped(error: BaseException) -> str:
    """Where a run of a model stopped: the innermost of its modules, and the last line that is not torch's.

    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(4, 1))
    >>> try:
    ...     net(torch.randn(1, 2))
    ... except RuntimeError as error:
    ...     print(stopped(error).partition(";")[0])
    in 2
    """
    names: dict[int, str] | None = None
    module, last, outside = "", "", ""
    step = error.__traceback__
    while step is not None:
        frame, own = step.tb_frame, step.tb_frame.f_locals.get("self")
        if isinstance(own, nn.Module):
            if names is None:  # the first module that runs is the model itself
                names = {id(m): name for name, m in own.named_modules()}
            module = names.get(id(own)) or module
        if names is not None:
            path = frame.f_code.co_filename
            last = f"{'/'.join(path.split('/')[-2:])}:{step.tb_lineno}"
            ours = isinstance(own, Widening)  # it only passes calls of torch on
            outside = outside if ours or "/torch/" in path else last
        step = step.tb_next
    place = outside or last
    return f"in {module}; {place}" if module else f"at {place}" if place else ""
