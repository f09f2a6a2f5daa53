"""A callback for Lightning's Trainer: a masked network inside a LightningModule stays masked while it trains."""

from typing import Any

from sprig.core.errors import InputError
from sprig.core.plan import Plan
from sprig.core.types import Graph, Outcome
from sprig.training.masks import HeldMasks, own

try:
    from lightning.pytorch import Callback
except ImportError:  # said when it is used, not when it is looked at
    Callback = None


class KeepMasks(Callback or object):  # type: ignore[misc]
    """Masks the network when training starts and again after every batch, so after every optimizer step.

    `plan` and `graph` speak of the network that was traced; `network` is where the LightningModule keeps it
    ("" where the LightningModule itself was traced): `Trainer(callbacks=[KeepMasks(plan, graph, network="net")])`.

    Raises:
        InputError: lightning is not installed, or the LightningModule has no such network.
        PlanError: the plan belongs to another graph, or the network is another one.
    """

    def __init__(self, plan: Plan | Outcome, graph: Graph, *, network: str = "") -> None:
        if Callback is None:
            raise InputError("lightning is not installed: pip install torch-sprig[lightning]")
        self.masks = HeldMasks(plan, graph)
        self.network = network

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.masks.begin(self._network(pl_module))

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.masks.apply(self._network(pl_module))

    def _network(self, module: Any) -> Any:
        try:
            return own(own(module).get_submodule(self.network))
        except AttributeError as error:
            children = ", ".join(name for name, _ in module.named_children())
            raise InputError(
                f"{type(module).__name__} has no network {self.network!r}; it has {children}"
            ) from error
