"""Callbacks for `transformers.Trainer`: a masked network stays masked while it trains; a penalty acts at every step."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from sprig.core.errors import InputError, StoreError
from sprig.core.plan import Plan
from sprig.core.stages import load_tree, save_tree
from sprig.core.types import Graph, Outcome
from sprig.training.masks import held, own

try:
    from transformers import TrainerCallback
except ImportError:  # said when it is used, not when it is looked at
    TrainerCallback = None


class KeepMasks(TrainerCallback or object):  # type: ignore[misc]
    """Masks the model when training begins and again after every optimizer step.

    `plan` and `graph` speak of the model that the Trainer is given (or `plan` is a mapping of masks by parameter, True
    for what stays, and needs no graph):
    `Trainer(model=sprig.mask(model, plan, graph), callbacks=[KeepMasks(plan, graph)], ...)`; afterwards
    `sprig.shrink(trainer.model, plan, graph)` is the same network, smaller.

    Raises:
        InputError: transformers is not installed.
        PlanError: the plan belongs to another graph, or the Trainer's model is another one.
    """

    def __init__(
        self, plan: Plan | Outcome | Mapping[str, Tensor], graph: Graph | None = None
    ) -> None:
        if TrainerCallback is None:
            raise InputError("transformers is not installed: pip install torch-sprig[hf]")
        self.masks = held(plan, graph)

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any
    ) -> None:
        self.masks.begin(own(model))

    def on_step_end(
        self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any
    ) -> None:
        self.masks.apply(own(model))


class Shrinks(TrainerCallback or object):  # type: ignore[misc]
    """A penalty at work in `trainer.train()`: attached to its optimizer, saved beside every checkpoint.

    `make` binds it to the model: `Shrinks(lambda model: Shrinker(model, Halo(mode="proximal")))`. When training is
    resumed, its state is read from the checkpoint of that step in `output_dir`, or from the folder `resume`. Warns
    where the settings can do nothing in a training of this length; numbers that are not finite are never saved.

    Raises:
        InputError: transformers is not installed.
        StoreError: training is resumed, and the checkpoint has no state of a penalty.
    """

    FILE = "penalty.safetensors"

    def __init__(self, make: Callable[[Any], Any], *, resume: str | Path | None = None) -> None:
        if TrainerCallback is None:
            raise InputError("transformers is not installed: pip install torch-sprig[hf]")
        self.make, self.resume = make, resume
        self.shrinker: Any = None

    def on_train_begin(
        self,
        args: Any,
        state: Any,
        control: Any,
        model: Any = None,
        optimizer: Any = None,
        **kwargs: Any,
    ) -> None:
        if self.shrinker is not None:  # an interrupted training's; the optimiser may be the same
            self.shrinker.detach()
        self.shrinker = self.make(own(model))
        if state.global_step > 0:
            path = Path(self.resume or self._folder(args, state)) / self.FILE
            if not path.is_file():
                raise StoreError(
                    f"training goes on at step {state.global_step}, but {path} is not there: give the folder of the "
                    "checkpoint as resume="
                )
            self.shrinker.load_state_dict(load_tree(path))
        if self.shrinker.total_steps is None and state.max_steps > 0:
            self.shrinker.total_steps = state.max_steps
        self.shrinker.attach(getattr(optimizer, "optimizer", optimizer))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Before the Trainer saves: its own file of the model would hold what is not finite."""
        if control.should_save:
            self.shrinker.look()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """As after a step."""
        if control.should_save:
            self.shrinker.look()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            save_tree(self._folder(args, state) / self.FILE, self.shrinker.state_dict())

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.shrinker.detach()

    def _folder(self, args: Any, state: Any) -> Path:
        return Path(args.output_dir) / f"checkpoint-{state.global_step}"
