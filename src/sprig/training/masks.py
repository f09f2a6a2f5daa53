"""Masks that stay while a masked network trains: what an optimizer makes of the zeros is undone after each step."""

from typing import Any

import torch
from torch import Tensor, nn

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


def own(model: Any) -> Any:
    """The user's module inside what distributed training and `torch.compile` wrap around it."""
    model = getattr(model, "_orig_mod", model)
    wrapped = isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel)
    return own(model.module) if wrapped else model
