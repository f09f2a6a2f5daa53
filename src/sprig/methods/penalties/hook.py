"""A penalty in the loop of `sprig.training`: bound when the run opens, watched every epoch, saved with checkpoints."""

import math
import warnings
from collections.abc import Callable, Collection, Mapping
from typing import Any

from sprig.core.contracts import Penalty
from sprig.core.errors import InputError, StoreError
from sprig.core.types import Graph
from sprig.methods.penalties.grda import GRDA
from sprig.methods.penalties.scope import Scope
from sprig.methods.penalties.shrinker import Ramp, Shrinker
from sprig.training import Moment, Run


class Shrinking:
    """A hook for `finetune` and `train`. After the run `shrinker` still has the coefficients.

    >>> import torch
    >>> from sprig.methods.penalties.l1 import L1
    >>> from sprig.training import FinetuneConfig, finetune
    >>> data = [(torch.ones(4, 5), torch.tensor([0, 1, 2, 2]))]
    >>> hook = Shrinking(L1(strength=10.0, mode="prox"))
    >>> record = finetune(torch.nn.Linear(5, 3), data, config=FinetuneConfig(epochs=5, lr=0.1), hooks=[hook])
    >>> record.last["zeros"]
    1.0
    """

    def __init__(
        self,
        penalty: Penalty,
        *,
        scope: Scope | None = None,
        graph: Graph | None = None,
        begin: float = 0.0,
        ramp: float = 0.0,
        watch: int = 50,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        """`begin`, `ramp`: epochs without the penalty, and epochs over which it then rises. `tell` gets warnings."""
        for name, value in (("begin", begin), ("ramp", ramp)):
            if not 0 <= value < math.inf:
                raise InputError(f"{name} is {value}, expected at least 0 epochs")
        self.penalty, self.scope, self.graph = penalty, scope, graph
        self.begin, self.ramp, self.watch, self.tell = begin, ramp, watch, tell
        self.shrinker: Shrinker | None = None
        self._saved: Mapping[str, Any] | None = None

    def __call__(self, moment: Moment, run: Run) -> None:
        if moment is Moment.RUN_OPENS:
            ramp = Ramp(
                begin=round(self.begin * run.steps_per_epoch),
                length=round(self.ramp * run.steps_per_epoch),
            )
            self.shrinker = Shrinker(
                run.model,
                self.penalty,
                scope=self.scope,
                graph=self.graph,
                ramp=ramp,
                steps=run.total_steps,
                watch=self.watch,
            )
            if self._saved is not None:
                self.shrinker.load_state_dict(self._saved)
            self.shrinker.attach(run.optimizer, tell=self.tell)
        elif moment is Moment.EPOCH_CLOSES and self.shrinker is not None:
            self.shrinker.look()
            run.row |= self.shrinker.statistics()
        elif moment is Moment.RUN_CLOSES and self.shrinker is not None:
            self.shrinker.detach()

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        if self.shrinker is None:
            raise InputError("the penalty is not at work yet: it has no state to save")
        return self.shrinker.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """From the checkpoint; taken up when the run opens."""
        self._saved = state


class Counting:
    """A hook for optimisers that shrink by themselves: the share of zeros among these parameters, every epoch.

    `settings` go into checkpoints, so that a training is resumed with what it was begun with. `tell` gets a warning
    where they can do nothing.
    """

    def __init__(
        self,
        names: Collection[str],
        settings: Any = None,
        *,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        self.names, self.settings, self.tell = tuple(names), repr(settings), tell

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"settings": self.settings, "names": list(self.names)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """From the checkpoint, which must be of the same training."""
        if state["settings"] != self.settings:
            raise StoreError(
                f"the saved training shrinks by {state['settings']}, this one by {self.settings}; resume with the same "
                "settings"
            )
        if list(state["names"]) != list(self.names):
            raise StoreError(
                f"the saved training shrinks {len(state['names'])} parameters, this one {len(self.names)} or others; "
                "resume with the same exclusions"
            )

    def __call__(self, moment: Moment, run: Run) -> None:
        if moment is Moment.RUN_OPENS and isinstance(run.optimizer, GRDA):
            idle = run.optimizer.idle(run.total_steps)
            if idle is not None and self.tell is not None:
                self.tell(idle)
            elif idle is not None:
                warnings.warn(idle, stacklevel=2)
        elif moment is Moment.EPOCH_CLOSES:
            parameters = dict(run.model.named_parameters())
            mine = [parameters[name].detach() for name in self.names]
            count = sum(w.numel() for w in mine)
            run.row["zeros"] = sum(int((w == 0).sum()) for w in mine) / count
            run.row["threshold"] = max(g["threshold"] for g in run.optimizer.param_groups)
