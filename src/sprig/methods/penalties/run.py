"""Train with a penalty, then cut, in one call: what `sprig train --method` does."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sprig.core.errors import InputError
from sprig.core.example import Example, inputs_of
from sprig.core.plan import Plan
from sprig.core.surgery import shrink
from sprig.core.tracing import trace
from sprig.core.types import Budget, Graph
from sprig.methods.penalties.cut import (
    Masks,
    apply_masks,
    keep_budget,
    keep_largest,
    keep_units,
)
from sprig.methods.penalties.gating import fold
from sprig.methods.penalties.grda import grda_for
from sprig.methods.penalties.hook import Counting, Shrinking
from sprig.methods.penalties.scope import Scope, penalised, wide
from sprig.methods.penalties.shelf import PENALTIES, Shrinkage
from sprig.methods.penalties.units import units_of
from sprig.training import Hook, TrainConfig, TrainRecord, train


@dataclass(frozen=True)
class Cut:
    """How much stays. Nothing given: what is not zero, or what the method itself removes."""

    keep: float | None = None  # share of the weights, or of the units
    budget: Budget | None = None  # params= or macs=, until it is met
    per_layer: bool = False  # the same share of every layer, or group

    @property
    def asked(self) -> bool:
        return self.keep is not None or self.budget is not None


@dataclass(frozen=True, eq=False)
class Shrunk:
    """What came of it."""

    model: nn.Module  # with a plan: smaller; with masks: zeros, not smaller
    trained: nn.Module  # as training left it, before the cut
    history: tuple[Mapping[str, Any], ...]
    plan: Plan | None = None
    masks: Masks = field(default_factory=dict)  # True for what stays
    coefficients: Mapping[str, Tensor] = field(default_factory=dict)  # of methods that learn some
    notes: tuple[str, ...] = ()  # what could not be done, or did nothing

    @property
    def kept(self) -> dict[str, float]:
        """Per masked tensor, the share of weights that stay."""
        return {n: float(m.double().mean()) for n, m in self.masks.items()}


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
    over which it rises. `graph` or `example` are needed by methods on groups, `example` by a budget of multiply-adds.

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
    if entry.kind == "gates" and cut.asked:
        raise InputError(
            f"{method} decides itself what stays; leave out the cut, change its strength"
        )
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
    notes: list[str] = []
    if entry.kind == "optimiser":
        return _by_optimiser(
            model, data, entry, settings, scope, cut, graph, example, hooks, options
        )
    shrinking = Shrinking(
        settings, scope=scope, graph=graph, begin=begin, ramp=ramp, tell=notes.append
    )
    start = settings.gated(model, graph) if entry.kind == "gates" else model
    record = train(start, data, hooks=[shrinking, *hooks], **options)
    shrinker = shrinking.shrinker
    assert shrinker is not None
    if entry.kind == "gates":
        assert graph is not None
        plain, plan = fold(record.model, graph)
        return _structured(entry, settings, plain, plan, graph, record, notes)
    if entry.kind == "units":
        assert graph is not None and shrinker.units is not None
        finished = getattr(shrinker.penalty, "finished", None)
        if finished is not None and not finished(shrinker.state):
            notes.append(
                f"{method} had not come to its end when the training did: train longer, or let its factors grow "
                "faster; what was on its way out is cut as it is"
            )
        scores = shrinker.scores()
        plan = keep_units(
            shrinker.units,
            scores,
            keep=cut.keep,
            budget=cut.budget,
            per_layer=cut.per_layer,
            seed=config.seed,
        )
        return _structured(entry, settings, record.model, plan, graph, record, notes)
    names = shrinker.names
    return _unstructured(record, names, cut, example, notes, _coefficients(shrinker))


def _by_optimiser(
    model: nn.Module, data: Any, entry: Shrinkage, settings: Any, scope: Scope | None, cut: Cut,
    graph: Graph | None, example: Example | None, hooks: Sequence[Hook], options: dict[str, Any],
) -> Shrunk:  # fmt: skip
    config: TrainConfig = options["config"]
    make = partial(grda_for, config=settings, lr=config.lr, scope=scope, graph=graph)
    if entry.groups:
        assert graph is not None
        names = units_of(graph, model, set(penalised(model, wide(scope)))).names
    else:
        names = tuple(penalised(model, scope))
    record = train(model, data, optimizer=make, hooks=[Counting(names), *hooks], **options)
    notes = ["momentum and weight decay of the settings are not used: this optimiser has neither"]
    if not entry.groups:
        return _unstructured(record, names, cut, example, notes, {})
    assert graph is not None
    units = units_of(graph, record.model, set(penalised(record.model, wide(scope))))
    parameters = dict(record.model.named_parameters())
    norms = units.norms([parameters[n].detach() for n in units.names])
    scores = norms / units.counts.clamp_min(1).sqrt()
    plan = keep_units(
        units, scores, keep=cut.keep, budget=cut.budget, per_layer=cut.per_layer, seed=config.seed
    )
    return _structured(entry, settings, record.model, plan, graph, record, notes)


def _structured(
    entry: Shrinkage,
    settings: Any,
    trained: nn.Module,
    plan: Plan,
    graph: Graph,
    record: TrainRecord,
    notes: list[str],
) -> Shrunk:
    named = {**vars(plan), "method": entry.name, "config": settings_of(settings)}
    plan = Plan(**named)
    if all(len(kept) == plan.sizes[name] for name, kept in plan.keep.items()):
        notes.append("no unit left: give a cut, raise the strength, or train longer")
    return Shrunk(
        model=shrink(trained, plan, graph),
        trained=trained,
        history=record.history,
        plan=plan,
        notes=tuple(notes),
    )


def _unstructured(
    record: TrainRecord,
    names: Sequence[str],
    cut: Cut,
    example: Example | None,
    notes: list[str],
    coefficients: Mapping[str, Tensor],
) -> Shrunk:
    parameters = dict(record.model.named_parameters())
    weights = {n: parameters[n].detach() for n in names}
    if cut.keep is not None and cut.budget is not None:
        raise InputError("give keep= or a budget, not both")
    if cut.budget is not None:
        args: tuple[Any, ...] = ()
        kwargs: Mapping[str, Any] = {}
        if cut.budget.macs is not None:
            if example is None:
                raise InputError(
                    "a budget of multiply-adds is counted on an example; give example="
                )
            args, kwargs = inputs_of(example)
        masks = keep_budget(record.model, weights, cut.budget, args=args, kwargs=kwargs)
    elif cut.keep is not None:
        masks = keep_largest(weights, cut.keep, per_layer=cut.per_layer)
    else:
        masks = {n: w != 0 for n, w in weights.items()}
        if all(bool(m.all()) for m in masks.values()):
            notes.append("no weight is zero: nothing was cut; say how much is to stay")
    empty = [n for n, m in masks.items() if not bool(m.any())]
    if empty:
        notes.append(f"the cut left nothing in {', '.join(empty)}; keep a share per layer, or more")
    model = copy.deepcopy(record.model)
    apply_masks(model, masks)
    return Shrunk(
        model=model,
        trained=record.model,
        history=record.history,
        masks=masks,
        coefficients=coefficients,
        notes=tuple(notes),
    )


def _coefficients(shrinker: Any) -> dict[str, Tensor]:
    """By tensor, what the method learned beside each weight."""
    if not hasattr(shrinker.penalty, "coefficients"):
        return {}
    found = shrinker.penalty.coefficients(shrinker.weights, shrinker.state)
    return dict(zip(shrinker.names, found)) if len(found) == len(shrinker.names) else {}


def settings_of(settings: Any) -> dict[str, Any]:
    """The settings of a method as plain values, without what is no setting.

    >>> from sprig.methods.penalties.l1 import L1
    >>> settings_of(L1())
    {'strength': 0.0005, 'mode': 'push'}
    """
    return {k: v for k, v in asdict(settings).items() if k != "units"}
