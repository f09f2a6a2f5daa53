"""The state of a training after an epoch, as one safetensors file, and the hook that writes it.

In the file: model, optimiser (momentum buffers, Adam's moments), a loader's own generator, what hooks remember,
history, epoch and step. No random state of torch is needed: the loop seeds every epoch from (seed, epoch). The file
is replaced in one step after each epoch, so a run killed at any moment repeats at most the epoch it was in, with the
same bits. `identity` says which training this is; a checkpoint of another one is refused.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sprig.core.errors import StoreError
from sprig.core.stages import load_tree, save_tree
from sprig.core.weights import check_fit, state_of
from sprig.training.feed import generator_of
from sprig.training.loop import Run
from sprig.training.moments import Hook, Moment

NAME = "training.safetensors"


class Checkpoint:
    """Saves after every epoch; put it first among the hooks, so that it closes last."""

    def __init__(
        self, folder: Path, *, identity: Mapping[str, Any], data: Any, hooks: Sequence[Hook]
    ) -> None:
        self.path = folder / NAME
        self.identity = dict(identity)
        self.generator = generator_of(data)
        self.hooks = [h for h in hooks if hasattr(h, "state_dict")]

    def __call__(self, moment: Moment, run: Run) -> None:
        if moment is Moment.EPOCH_CLOSES:
            self.save(run)

    def prepare(self, *, resume: bool) -> bool:
        """Make the folder; True if there is a state to continue from. One in the way is refused."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"cannot write to {self.path.parent}: {error.strerror}; name a folder you may write to"
            ) from error
        if self.path.exists() and not resume:
            raise StoreError(
                f"{self.path.parent} already holds a training; resume it (resume=True) or name another folder"
            )
        return self.path.exists()

    def save(self, run: Run) -> None:
        """Write the state of `run`, atomically."""
        save_tree(
            self.path,
            {
                "identity": self.identity,
                "epoch": run.epoch,
                "step": run.step,
                "stop": run.stop,
                "history": run.history,
                "model": state_of(run.model),
                "optimizer": run.optimizer.state_dict(),
                "generator": None if self.generator is None else self.generator.get_state(),
                "hooks": [hook.state_dict() for hook in self.hooks],  # type: ignore[attr-defined]
            },
        )

    def restore(self, run: Run) -> None:
        """Put the saved state into `run`, in place; nothing is changed if it does not belong to it."""
        state = load_tree(self.path)
        if not isinstance(state, dict) or "identity" not in state:
            raise StoreError(f"{self.path} is not the state of a training; name another folder")
        for key, want in self.identity.items():
            found = state["identity"].get(key)
            if found != want:
                raise StoreError(
                    f"{self.path} belongs to another training: its {key} is {_short(found)}, now "
                    f"{_short(want)}; give the same settings to resume, or name another folder"
                )
        if len(state["hooks"]) != len(self.hooks):
            raise StoreError(
                f"{self.path} remembers {len(state['hooks'])} hooks, this run has {len(self.hooks)}; "
                "resume with the same hooks"
            )
        check_fit(state["model"], state_of(run.model), what=str(self.path))
        run.model.load_state_dict(state["model"])
        try:
            run.optimizer.load_state_dict(state["optimizer"])
        except ValueError as error:
            raise StoreError(
                f"{self.path} belongs to another training: {error}; give the same settings to resume, or name another "
                "folder"
            ) from error
        _match_layout(run.optimizer)
        for hook, saved in zip(self.hooks, state["hooks"], strict=True):
            hook.load_state_dict(saved)  # type: ignore[attr-defined]
        if self.generator is not None and state["generator"] is not None:
            self.generator.set_state(state["generator"])
        run.epoch, run.step, run.stop = state["epoch"], state["step"], state["stop"]
        run.history = list(state["history"])


def _match_layout(optimizer: torch.optim.Optimizer) -> None:
    """Give each buffer its parameter's strides: another order of summing or of fused operations rounds otherwise."""
    for parameter, buffers in optimizer.state.items():
        assert isinstance(parameter, nn.Parameter)
        for key, value in buffers.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                buffers[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."
