"""Masks that stay while a masked network trains: what an optimizer makes of the zeros is undone after each step."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sprig.core.errors import InputError, PlanError
from sprig.core.norms import mark_
from sprig.core.plan import Plan
from sprig.core.surgery import fits, state
from sprig.core.types import Graph, Outcome
from sprig.training.loop import Run
from sprig.training.moments import Moment


class HeldMasks:
    """The zeros of a plan, put back into a network as often as asked; as a hook of `sprig.finetune`, after every step.

    The tensors are those that `sprig.mask` zeroes, so the network goes on to be what `sprig.shrink` makes smaller.

    >>> from sprig.core.tracing import trace
    >>> from sprig.training.finetune import finetune
    >>> net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> graph = trace(net, (torch.ones(2, 3),))
    >>> plan = Plan({"0": (0, 2)}, {"0": 4}, graph.fingerprint)
    >>> batch = (torch.ones(2, 3), torch.tensor([0, 1]))
    >>> trained = finetune(net, [batch], hooks=[HeldMasks(plan, graph)]).model
    >>> trained[0].weight.any(1).tolist(), trained[2].weight.any(0).tolist()
    ([True, False, True, False], [True, False, True, False])
    """

    def __init__(self, plan: Plan | Outcome, graph: Graph) -> None:
        masks = (plan.plan if isinstance(plan, Outcome) else plan).masks(graph)
        self.masks, self.graph = masks, graph
        self.gone: list[tuple[str, Tensor]] = []  # tensor, what is zero in it (broadcastable)
        for slot in graph.slots:
            keep = slot.axis.keep(masks)
            if slot.role != "follower" and not keep.all():
                shape = [1] * len(graph.shapes[slot.tensor])
                shape[slot.dim] = -1
                self.gone.append((slot.tensor, torch.from_numpy(~keep).reshape(shape)))

    def begin(self, model: nn.Module) -> None:
        """Refuse a network that the plan does not fit, then mask it."""
        fits(model, self.graph)
        mark_(model, self.masks, self.graph)
        self.apply(model)

    def apply(self, model: nn.Module) -> None:
        """Zero in place what leaves."""
        tensors = state(model)
        with torch.no_grad():
            for i, (name, gone) in enumerate(self.gone):
                if gone.device != tensors[name].device:
                    gone = gone.to(tensors[name].device)
                    self.gone[i] = name, gone
                tensors[name].masked_fill_(gone, 0.0)

    def __call__(self, moment: Moment, run: Run) -> None:
        if moment is Moment.RUN_OPENS:
            self.begin(run.model)
        elif moment is Moment.STEP_CLOSES:
            self.apply(run.model)


class HeldZeros:
    """Single weights held at zero: `masks` by parameter, True for what stays. Used like `HeldMasks`.

    >>> net = nn.Linear(2, 1)
    >>> HeldZeros({"weight": torch.tensor([[True, False]])}).apply(net)
    >>> (net.weight != 0).tolist()
    [[True, False]]
    """

    def __init__(self, masks: Mapping[str, Tensor]) -> None:
        self.masks = dict(masks)

    def begin(self, model: nn.Module) -> None:
        """Refuse a network that the masks do not fit, then mask it."""
        parameters = dict(model.named_parameters())
        for name, mask in self.masks.items():
            found = tuple(parameters[name].shape) if name in parameters else "no such parameter"
            if found != tuple(mask.shape):
                raise PlanError(
                    f"{name}: the mask is {tuple(mask.shape)}, the model has {found}; use the masks of this model"
                )
        self.apply(model)

    def apply(self, model: nn.Module) -> None:
        """Zero in place what does not stay."""
        parameters = dict(model.named_parameters())
        with torch.no_grad():
            for name, mask in self.masks.items():
                if mask.device != parameters[name].device:
                    mask = self.masks[name] = mask.to(parameters[name].device)
                parameters[name].masked_fill_(~mask, 0.0)

    def __call__(self, moment: Moment, run: Run) -> None:
        if moment is Moment.RUN_OPENS:
            self.begin(run.model)
        elif moment is Moment.STEP_CLOSES:
            self.apply(run.model)

    def state_dict(self) -> dict[str, Any]:
        """The masks: they belong to the training that they hold."""
        return {"masks": {n: m.to(torch.uint8) for n, m in self.masks.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Masks of the training that is taken up again."""
        self.masks = {n: m.bool() for n, m in state["masks"].items()}


def held(plan: Plan | Outcome | Mapping[str, Tensor], graph: Graph | None) -> HeldMasks | HeldZeros:
    """What holds the zeros of a plan, or of masks by parameter."""
    if isinstance(plan, Plan | Outcome):
        if graph is None:
            raise InputError("a plan speaks of a graph; give graph=sprig.trace(model, ...)")
        return HeldMasks(plan, graph)
    return HeldZeros(plan)


def own(model: Any) -> Any:
    """The user's module inside what distributed training and `torch.compile` wrap around it."""
    model = getattr(model, "_orig_mod", model)
    wrapped = isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel)
    return own(model.module) if wrapped else model
