"""Callbacks for Lightning's Trainer: a masked network stays masked while it trains; a penalty acts at every step."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from sprig.core.errors import InputError
from sprig.core.plan import Plan
from sprig.core.types import Graph, Outcome
from sprig.training.masks import held, own

try:
    from lightning.pytorch import Callback
except ImportError:  # said when it is used, not when it is looked at
    Callback = None


class KeepMasks(Callback or object):  # type: ignore[misc]
    """Masks the network when training starts and again after every batch, so after every optimizer step.

    `plan` and `graph` speak of the network that was traced, or `plan` is a mapping of masks by parameter, True for what
    stays, and needs no graph; `network` is where the LightningModule keeps it
    ("" where the LightningModule itself was traced): `Trainer(callbacks=[KeepMasks(plan, graph, network="net")])`.

    Raises:
        InputError: lightning is not installed, or the LightningModule has no such network.
        PlanError: the plan belongs to another graph, or the network is another one.
    """

    def __init__(
        self,
        plan: Plan | Outcome | Mapping[str, Tensor],
        graph: Graph | None = None,
        *,
        network: str = "",
    ) -> None:
        if Callback is None:
            raise InputError("lightning is not installed: pip install torch-sprig[lightning]")
        self.masks = held(plan, graph)
        self.network = network

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.masks.begin(self._network(pl_module))

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.masks.apply(self._network(pl_module))

    def _network(self, module: Any) -> Any:
        return _inside(module, self.network)

    def state_dict(self) -> dict[str, Any]:
        """Masks of single weights belong to the training; those of a plan are made from it."""
        return self.masks.state_dict() if hasattr(self.masks, "state_dict") else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From the checkpoint."""
        if state_dict and hasattr(self.masks, "load_state_dict"):
            self.masks.load_state_dict(state_dict)


class Shrinks(Callback or object):  # type: ignore[misc]
    """A penalty at work in `trainer.fit`: bound when training starts, saved in every checkpoint, taken up from it.

    `make` binds it to the network: `Shrinks(lambda net: Shrinker(net, Halo()), network="net")`. Gradients get the
    penalty's part before Lightning clips them. Warns where its settings can do nothing in a training of this length;
    numbers that are not finite are never saved.

    Raises:
        InputError: lightning is not installed, or training has several optimizers.
    """

    def __init__(self, make: Callable[[Any], Any], *, network: str = "") -> None:
        if Callback is None:
            raise InputError("lightning is not installed: pip install torch-sprig[lightning]")
        self.make, self.network = make, network
        self.shrinker: Any = None
        self._saved: Mapping[str, Any] | None = None
        self._handle: Any = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if len(trainer.optimizers) != 1:
            raise InputError(
                f"training has {len(trainer.optimizers)} optimizers, a penalty acts with one; give each its own "
                "Shrinker in your training_step"
            )
        self.shrinker = self.make(_inside(pl_module, self.network))
        if self._saved is not None:
            self.shrinker.load_state_dict(self._saved)
        (optimizer,) = trainer.optimizers
        steps = trainer.estimated_stepping_batches
        if self.shrinker.total_steps is None and math.isfinite(steps):
            self.shrinker.total_steps = int(steps)
        self.shrinker.warn(optimizer)
        self._handle = optimizer.register_step_post_hook(self._after)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.shrinker.before_step(lr=self.shrinker.rate(optimizer)[0])

    def _after(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        lr, boost = self.shrinker.rate(optimizer)
        self.shrinker.after_step(lr=lr * boost)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._handle.remove()

    def state_dict(self) -> dict[str, Any]:
        """Coefficients, their momentum and the step."""
        return {} if self.shrinker is None else self.shrinker.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From the checkpoint; taken up when training starts."""
        self._saved = state_dict or None


def _inside(module: Any, network: str) -> Any:
    try:
        return own(own(module).get_submodule(network))
    except AttributeError as error:
        children = ", ".join(name for name, _ in module.named_children())
        raise InputError(
            f"{type(module).__name__} has no network {network!r}; it has {children}"
        ) from error
