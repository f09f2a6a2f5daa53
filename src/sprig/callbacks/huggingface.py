"""A callback for `transformers.Trainer`: a masked network stays masked while it trains."""

from typing import Any

from sprig.core.errors import InputError
from sprig.core.plan import Plan
from sprig.core.types import Graph, Outcome
from sprig.training.masks import HeldMasks, own

try:
    from transformers import TrainerCallback
except ImportError:  # said when it is used, not when it is looked at
    TrainerCallback = None


class KeepMasks(TrainerCallback or object):  # type: ignore[misc]
    """Masks the model when training begins and again after every optimizer step.

    `plan` and `graph` speak of the model that the Trainer is given:
    `Trainer(model=sprig.mask(model, plan, graph), callbacks=[KeepMasks(plan, graph)], ...)`; afterwards
    `sprig.shrink(trainer.model, plan, graph)` is the same network, smaller.

    Raises:
        InputError: transformers is not installed.
        PlanError: the plan belongs to another graph, or the Trainer's model is another one.
    """

    def __init__(self, plan: Plan | Outcome, graph: Graph) -> None:
        if TrainerCallback is None:
            raise InputError("transformers is not installed: pip install torch-sprig[hf]")
        self.masks = HeldMasks(plan, graph)

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any
    ) -> None:
        self.masks.begin(own(model))

    def on_step_end(
        self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any
    ) -> None:
        self.masks.apply(own(model))
