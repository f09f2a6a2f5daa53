"""How a run begins: the workbench, the data or this process's share of it, the folder, and stages done once."""

import copy
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from torch import nn

from sprig.core.batches import Triples, as_batches
from sprig.core.deal import Dealt, deal
from sprig.core.errors import InputError
from sprig.core.example import Example, inputs_of
from sprig.core.folder import RunFolder
from sprig.core.groups import left_whole
from sprig.core.norms import Norms
from sprig.core.ranks import ALONE, Ranks, present
from sprig.core.tracing import trace
from sprig.core.types import Graph
from sprig.core.workbench import Progress, Workbench, silent
from sprig.methods import METHODS, Method
from sprig.workflow.pieces import check_labels, in_parts

T = TypeVar("T")


def bench_for(
    model: nn.Module, example: Example, data: Any, method: str, config: Any, seed: int,
    progress: Progress | None, norms: Norms, modules: Sequence[str] | str | None, processes: bool,
    exclude: Sequence[str] = (),
) -> tuple[Workbench, Method, Any, Any]:  # fmt: skip
    if method not in METHODS:
        raise InputError(f"unknown method {method!r}; known are {', '.join(METHODS)}")
    chosen = METHODS[method]
    settings = chosen.config() if config is None else config
    if not isinstance(settings, chosen.config):
        raise InputError(
            f"config of {method!r} is a {type(settings).__name__}, expected a {chosen.config.__name__}"
        )
    twin = copy.deepcopy(model).eval()
    ranks = present() if processes else ALONE
    # of a stream the first process holds all, as it measures quality; the others let go what is not theirs
    triples = as_batches(data, hold=None if ranks.first else False)
    memory = triples.memory * (1 if triples.once else ranks.size)
    if not ranks.alone:
        check_shareable(method, modules)
        bench = Workbench(
            twin, _NO_GRAPH, [], seed, (progress or silent) if ranks.first else silent, ranks=ranks,
            views=triples.views,
        )  # fmt: skip

        def share(given: Triples) -> Dealt:
            return deal(given, ranks, lambda t: bench.check_one(t, *inputs_of(example)))

        bench.dealt, triples = triples.within(memory, share)
    else:
        held, triples = triples.within(memory, lambda given: [t for t in given])  # noqa: C416
        wants = chosen.labels and getattr(settings, "objective", "labels") == "labels"
        if wants and any(t[2] is None for t in held):
            raise InputError(
                f"method {method!r} needs labels; give batches as (input, target) pairs"
            )
        bench = Workbench(twin, _NO_GRAPH, held, seed, progress or silent, views=triples.views)
        bench.check(*inputs_of(example))
    graph = trace(twin, example, norms=norms, modules=modules)
    bench.graph = left_whole(graph, exclude)
    if bench.graph.parts:
        check_labels(chosen, settings)
        chosen = in_parts(chosen)
    return bench, chosen, settings, triples


_NO_GRAPH = Graph((), (), (), (), (), {}, "")


def check_shareable(method: str, modules: Sequence[str] | str | None) -> None:
    """Refuse what several processes cannot share."""
    if method == "loss" or modules is not None:
        what = "method 'loss'" if method == "loss" else "modules="
        raise InputError(
            f"{what} runs in one process only; start it without torchrun, or take another method or the whole model"
        )


def stage(out: RunFolder | None, ranks: Ranks, name: str, compute: Callable[[], T]) -> T:
    """A stage that all processes compute together, unless the first finds it in the folder; all get the same bits."""
    known = ranks.lead(lambda: out is not None and out.has_stage(name))
    value = None if known else compute()
    kept = out
    return ranks.lead(
        lambda: value if kept is None else kept.once(name, lambda: value)  # type: ignore[arg-type,return-value]
    )


def open_folder(folder: Any, resume: bool) -> RunFolder | None:
    if folder is None or isinstance(folder, RunFolder):
        return folder
    return RunFolder.create(folder, resume=resume)
