"""Train with a penalty, then cut, in one call: what `sprig train --method` does."""

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from sprig.core.errors import InputError, TraceError
from sprig.core.example import Example
from sprig.core.tracing import trace
from sprig.core.types import Graph
from sprig.methods.penalties.asked import refuse_idle, rehearse
from sprig.methods.penalties.ends import Cut, Ending, Shrunk, settings_of
from sprig.methods.penalties.gating import fold, gates_of, ungated
from sprig.methods.penalties.grda import grda_for
from sprig.methods.penalties.hook import Counting, Shrinking
from sprig.methods.penalties.scope import Scope, penalised, wide
from sprig.methods.penalties.shelf import PENALTIES
from sprig.methods.penalties.units import excluded, units_of, without
from sprig.methods.penalties.views import law
from sprig.training import Hook, TrainConfig, train

__all__ = ["Cut", "Shrunk", "settings_of", "train_and_cut"]


def train_and_cut(
    model: nn.Module,
    data: Any,
    *,
    method: str = "halo",
    settings: Any = None,
    config: TrainConfig | None = None,
    scope: Scope | None = None,
    cut: Cut | None = None,
    graph: Graph | None = None,
    example: Example | None = None,
    begin: float = 0.0,
    ramp: float = 0.0,
    evaluation: Any = None,
    hooks: Sequence[Hook] = (),
    folder: str | Path | None = None,
    resume: bool = False,
) -> Shrunk:
    """Train a copy of `model` under a penalty of `PENALTIES`, then cut it once; nothing is retrained after the cut.

    `settings`: of the method, a record such as `Halo(xi=1e-4)`. `begin`, `ramp`: epochs before the penalty acts, and
    over which it rises. `graph` or `example` are needed by methods on groups, and by a budget of multiply-adds.

    >>> import torch
    >>> data = [(torch.randn(8, 5), torch.tensor([0, 1, 2, 0, 1, 2, 0, 1]))]
    >>> net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> found = train_and_cut(net, data, method="l1", config=TrainConfig(epochs=2), cut=Cut(keep=0.25))
    >>> sum(int(m.sum()) for m in found.masks.values())
    16
    """
    if method not in PENALTIES:
        raise InputError(f"unknown method {method!r}; known are {', '.join(PENALTIES)}")
    entry = PENALTIES[method]
    settings = entry.config() if settings is None else settings
    if not isinstance(settings, entry.config):
        raise InputError(
            f"the settings of {method} are a {entry.config.__name__}, found a {type(settings).__name__}"
        )
    config = TrainConfig() if config is None else config
    cut = Cut() if cut is None else cut
    refuse_idle(entry, scope=scope, cut=cut, begin=begin, ramp=ramp, epochs=config.epochs)
    if entry.groups and graph is None:
        if example is None:
            raise InputError(
                f"{method} acts on groups of channels; give graph=sprig.trace(model, ...) or example="
            )
        graph = trace(model, example)
    options: dict[str, Any] = {
        "config": config,
        "evaluation": evaluation,
        "folder": folder,
        "resume": resume,
    }
    if (
        cut.budget is not None
        and cut.budget.macs is not None
        and graph is None
        and example is not None
    ):
        with suppress(TraceError):  # without one, the ending counts what it can, and says so
            graph = trace(model, example)
    notes: list[str] = []
    ending = Ending(
        entry,
        settings,
        cut,
        data=data,
        example=example,
        seed=config.seed,
        notes=notes,
        graph=graph,
    )
    rehearse(ending, model, scope)
    if entry.kind == "optimiser":
        return _by_optimiser(model, ending, scope, graph, hooks, options)
    start = model
    if entry.kind == "gates":
        assert graph is not None
        spared = excluded(graph, model, set(penalised(model, wide(scope))))
        start, scope = settings.gated(model, without(graph, spared)), None
        ending.tell_left(set(map(int, gates_of(start))), ungated(model, graph) | spared)
    shrinking = Shrinking(
        settings, scope=scope, graph=graph, begin=begin, ramp=ramp, tell=notes.append
    )
    record = train(start, data, hooks=[shrinking, *hooks], **options)
    shrinker = shrinking.shrinker
    assert shrinker is not None
    if entry.kind == "gates":
        assert graph is not None
        plain, plan = fold(record.model, graph)
        return ending.smaller(plain, plan, graph, record.history)
    if entry.kind == "units":
        assert graph is not None and shrinker.units is not None
        spared = excluded(graph, model, set(penalised(model, wide(scope))))
        ending.tell_left(set(shrinker.units.group.tolist()), spared, "no batch norm follows it")
        bound: Any = shrinker.penalty
        if hasattr(bound, "finished") and not bound.finished(shrinker.state):
            notes.append(
                f"{method} had not come to its end when the training did: train longer, or let its factors grow "
                f"faster; {bound.rest}"
            )
        rank = shrinker.units, shrinker.scores()
        plan = ending.plan(*rank)
        return ending.smaller(
            record.model, plan, graph, record.history, rank=rank, law=law(shrinker)
        )
    return ending.masked(record, shrinker.names, shrinker=shrinker)


def _by_optimiser(
    model: nn.Module, ending: Ending, scope: Scope | None, graph: Graph | None, hooks: Sequence[Hook],
    options: dict[str, Any],
) -> Shrunk:  # fmt: skip
    config: TrainConfig = options["config"]
    make = partial(grda_for, config=ending.settings, lr=config.lr, scope=scope, graph=graph)
    if ending.entry.groups:
        assert graph is not None
        names = units_of(graph, model, set(penalised(model, wide(scope)))).names
    else:
        names = tuple(penalised(model, scope))
    counting = [Counting(names, ending.settings, tell=ending.notes.append), *hooks]
    record = train(model, ending.data, optimizer=make, hooks=counting, **options)
    ending.notes.append(
        "momentum and weight decay of the settings are not used: this optimiser has neither"
    )
    if not ending.entry.groups:
        return ending.masked(record, names)
    assert graph is not None
    allowed = set(penalised(record.model, wide(scope)))
    units = units_of(graph, record.model, allowed)
    ending.tell_left(set(units.group.tolist()), excluded(graph, model, allowed))
    parameters = dict(record.model.named_parameters())
    norms = units.norms([parameters[n].detach() for n in units.names])
    rank = units, norms / units.counts.clamp_min(1).sqrt()
    plan = ending.plan(*rank)
    return ending.smaller(record.model, plan, graph, record.history, rank=rank)
