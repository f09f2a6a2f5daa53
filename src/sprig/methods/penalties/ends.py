"""The end of a training with a penalty: the cut, and what came of it. Nothing is retrained here."""

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from sprig.core.batches import map_tensors, unpack
from sprig.core.certify import probe_inputs
from sprig.core.errors import DivergenceError, InputError
from sprig.core.example import Example, Inputs, inputs_of
from sprig.core.plan import Plan
from sprig.core.surgery import shrink
from sprig.core.tracing import distance, tensors_of
from sprig.core.types import Budget, Graph, device_of
from sprig.methods.penalties.cut import (
    Masks,
    apply_masks,
    keep_budget,
    keep_largest,
    keep_units,
    narrowed,
    within,
)
from sprig.methods.penalties.empty import take_over
from sprig.methods.penalties.shelf import Shrinkage
from sprig.methods.penalties.shrinker import Shrinker
from sprig.methods.penalties.units import Units, left_alone, units_of
from sprig.methods.penalties.views import law
from sprig.training import TrainRecord, reestimate_batch_norm
from sprig.training.evaluate import evaluating
from sprig.training.loop import epoch_seed

SAME = 1e-4  # relative: two networks that compute the same, in their own precision
CHANGED = (
    "the units that leave are zero, but not what the layers behind make of zero: the cut changes what the network "
    "computes"
)
RENEWED = 200  # batches that the statistics of batch norms are taken from
Again = Callable[[float], nn.Module]  # share that stays → the trained network, cut like that


@dataclass(frozen=True)
class Cut:
    """How much stays. Nothing given: what is not zero, or what the method itself removes."""

    keep: float | None = None  # share of the weights, or of the units
    budget: Budget | None = None  # params= or macs=, until it is met
    per_layer: bool = False  # the same share of every layer, or group
    batch_norm: bool = (
        True  # statistics of batch norms anew where something leaves that was not zero
    )

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
    masks: Masks = field(default_factory=dict)  # of the model: True for weights that stay
    whole: Masks = field(default_factory=dict)  # of the trained one: units that left are False, too
    share: float = 1.0  # what stays: of the weights; of the units, where the method acts on units
    coefficients: Mapping[str, Tensor] = field(default_factory=dict)  # of methods that learn some
    notes: tuple[str, ...] = ()  # what could not be done, or did nothing
    law: tuple[Mapping[str, float], ...] = ()  # sizes and coefficients, see views.law
    again: Again | None = None  # the same cut at another share; None: the method chose what stays

    @property
    def kept(self) -> dict[str, float]:
        """Per masked tensor, as it was trained, the share of weights that stay."""
        return {n: float(m.double().mean()) for n, m in self.whole.items()}


@dataclass(frozen=True, eq=False)
class Ending:
    """What is known of the cut before training ends."""

    entry: Shrinkage
    settings: Any
    cut: Cut
    data: Any
    example: Example | None
    seed: int
    notes: list[str]
    graph: Graph | None = None  # that multiply-adds of masks are counted by

    def plan(self, units: Units, scores: Tensor, *, keep: float | None = None) -> Plan:
        """The units that stay, by their scores; `keep` in place of what the cut says."""
        return keep_units(
            units,
            scores,
            keep=self.cut.keep if keep is None else keep,
            budget=self.cut.budget if keep is None else None,
            per_layer=self.cut.per_layer,
            relative=self.entry.relative,
            method=self.entry.name,
            settings=settings_of(self.settings),
            seed=self.seed,
        )

    def tell_left(self, acted: Collection[int], spared: Mapping[int, str], other: str = "") -> None:
        """Note the groups that the method did not act on, with the reasons."""
        assert self.graph is not None
        note = left_alone(self.graph, acted, spared, other)
        if note is not None:
            self.notes.append(note)

    def smaller(
        self,
        trained: nn.Module,
        plan: Plan,
        graph: Graph,
        history: Sequence[Mapping[str, Any]],
        *,
        rank: tuple[Units, Tensor] | None = None,
        law: tuple[Mapping[str, float], ...] = (),
    ) -> Shrunk:
        """A network without the units that leave; with masks where single weights in what stays are zero, too."""
        named = {"method": self.entry.name, "config": settings_of(self.settings)}
        plan = Plan(**{**vars(plan), **named})
        if all(len(kept) == plan.sizes[name] for name, kept in plan.keep.items()):
            self.notes.append(
                "no unit was removed: give a cut, raise the strength, or train longer"
            )

        def again(keep: float) -> nn.Module:
            assert rank is not None
            return self._cut(trained, self.plan(*rank, keep=keep), graph)[0]

        whole: Masks = {}
        if self.entry.single and rank is not None:
            parameters = dict(trained.named_parameters())
            whole = within({n: parameters[n].detach() != 0 for n in rank[0].names}, plan, graph)
        masks = narrowed(whole, plan, graph)
        if all(bool(m.all()) for m in masks.values()):
            whole, masks = {}, {}
        model, changed = self._cut(trained, plan, graph)
        if changed is not None:
            self.notes.append(changed)
        return Shrunk(
            model=model,
            trained=trained,
            history=tuple(history),
            plan=plan,
            masks=masks,
            whole=whole,
            share=sum(map(len, plan.keep.values())) / sum(plan.sizes[n] for n in plan.keep),
            notes=tuple(self.notes),
            law=law,
            again=again if rank is not None else None,
        )

    def _cut(self, trained: nn.Module, plan: Plan, graph: Graph) -> tuple[nn.Module, str | None]:
        """The smaller network; what has to be said of it where only zeros were to leave."""
        wide = copy.deepcopy(trained)
        inputs = self._inputs(wide)
        with evaluating(wide):
            stuck = take_over(wide, graph, plan.masks(graph), *inputs)
        small, said = shrink(wide, plan, graph), None
        before, changed = answer(trained, *inputs), alive_leave(trained, plan, graph)
        if not changed and not distance(before, answer(small, *inputs)) <= SAME:
            changed, said = True, CHANGED
            if stuck:
                said += f" ({stuck} of them say a constant that no reader can take over: zero padding, or no bias)"
        if self.cut.batch_norm and changed:
            renew(small, self.data, self.seed)
        if finite(before) and not finite(answer(small, *inputs)):
            raise DivergenceError(
                "the network that was trained gives numbers, the one that was cut does not; keep more"
            )
        return small, said

    def _inputs(self, model: nn.Module) -> Inputs:
        """The example and noise like it; without one the first batch of the data."""
        if self.example is not None:
            inputs = probe_inputs(self.example, self.seed)
        else:
            with torch.random.fork_rng(devices=[]):
                args, kwargs, _ = unpack(next(iter(self.data)))
            inputs = args, kwargs
        args, kwargs = map_tensors(inputs, lambda t: t.to(device_of(model)))
        return args, kwargs

    def masked(
        self, record: TrainRecord, names: Sequence[str], *, shrinker: Shrinker | None = None
    ) -> Shrunk:
        """A network with zeros."""
        parameters = dict(record.model.named_parameters())
        weights = {n: parameters[n].detach() for n in names}
        masks = self.masks(record.model, weights)
        empty = [n for n, m in masks.items() if not bool(m.any())]
        if empty:
            self.notes.append(
                f"the cut left nothing in {', '.join(empty)}; keep a share per layer, or more"
            )

        def zeroed(masks: Masks) -> nn.Module:
            data = self.data if self.cut.batch_norm else None
            return with_zeros(record.model, masks, data, seed=self.seed)

        def again(keep: float) -> nn.Module:
            return zeroed(keep_largest(weights, keep, per_layer=self.cut.per_layer))

        return Shrunk(
            model=zeroed(masks),
            trained=record.model,
            history=record.history,
            masks=masks,
            whole=masks,
            share=share_of(masks),
            coefficients={} if shrinker is None else _coefficients(shrinker),
            notes=tuple(self.notes),
            law=() if shrinker is None else law(shrinker),
            again=again,
        )

    def masks(self, model: nn.Module, weights: Mapping[str, Tensor]) -> Masks:
        """What stays of the weights."""
        cut = self.cut
        if cut.keep is not None and cut.budget is not None:
            raise InputError("give keep= or a budget, not both")
        if cut.budget is not None:
            more: dict[str, Any] = {"graph": self.graph, "per_layer": cut.per_layer}
            if cut.budget.macs is not None and self.graph is None:
                if self.example is None:
                    raise InputError(
                        "a budget of multiply-adds is counted on an example; give example="
                    )
                more["args"], more["kwargs"] = inputs_of(self.example)
                self.notes.append(
                    "there is no graph of this model: its multiply-adds were counted on convolutions and linear "
                    "layers alone, not in attention or recurrent layers"
                )
            return keep_budget(model, weights, cut.budget, **more)
        if cut.keep is not None:
            return keep_largest(weights, cut.keep, per_layer=cut.per_layer)
        masks = {n: w != 0 for n, w in weights.items()}
        if all(bool(m.all()) for m in masks.values()):
            self.notes.append("no weight is zero: nothing was cut; say how much is to stay")
        return masks


@torch.no_grad()
def answer(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """What a model gives when it is not training; its mode is as before."""
    with evaluating(model):
        return model(*args, **kwargs)


def finite(output: Any) -> bool:
    """Whether all numbers of an output are."""
    return all(bool(torch.isfinite(t).all()) for t in tensors_of(output))


def share_of(masks: Masks) -> float:
    """The share of all masked weights that stays."""
    return sum(int(m.sum()) for m in masks.values()) / sum(m.numel() for m in masks.values())


def renew(model: nn.Module, data: Any, seed: int) -> None:
    """Statistics of batch norms as they are after the cut, from the training data without its labels; in place."""
    # a loader that shuffles takes torch's own numbers
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(epoch_seed(seed, -1))
        reestimate_batch_norm(model, islice(iter(data), RENEWED))


def with_zeros(model: nn.Module, masks: Masks, data: Any = None, *, seed: int = 0) -> nn.Module:
    """A copy with zeros; batch norms anew, if there is `data`, where something leaves that was not zero."""
    twin = copy.deepcopy(model)
    apply_masks(twin, masks)
    before = dict(model.named_parameters())
    if data is not None and any(bool(before[n].detach()[~m].any()) for n, m in masks.items()):
        renew(twin, data, seed)
    return twin


def alive_leave(model: nn.Module, plan: Plan, graph: Graph) -> bool:
    """Whether a plan removes units that are not zero: then it changes what the network computes."""
    parameters = dict(model.named_parameters())
    units = units_of(graph, model, set(parameters))
    norms = units.norms([parameters[n].detach() for n in units.names])
    names = {g.index: g.name for g in graph.groups}
    kept = {name: set(numbers) for name, numbers in plan.keep.items()}
    return any(
        number not in kept[names[group]]
        for group, number, norm in zip(
            units.group.tolist(), units.number.tolist(), norms.tolist(), strict=True
        )
        if norm > 0 and names[group] in kept
    )


def _coefficients(shrinker: Shrinker) -> dict[str, Tensor]:
    """By tensor, what the method learned beside each weight."""
    penalty: Any = shrinker.penalty
    if not hasattr(penalty, "coefficients"):
        return {}
    found = penalty.coefficients(shrinker.weights, shrinker.state)
    return dict(zip(shrinker.names, found)) if len(found) == len(shrinker.names) else {}


def settings_of(settings: Any) -> dict[str, Any]:
    """The settings of a method as plain values, without what is no setting.

    >>> from sprig.methods.penalties.l1 import L1
    >>> settings_of(L1())
    {'strength': 0.0005, 'mode': 'push'}
    """
    return {k: v for k, v in asdict(settings).items() if k != "units"}
