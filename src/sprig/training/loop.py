"""The shortest honest training loop; everything else hangs on it as a hook. The drawing is in `moments.py`.

Before each epoch torch's global random numbers (dropout, a loader's shuffle) are seeded from
(seed, epoch), so that an epoch is the same whether or not the ones before it ran in this process; the
caller's own state is put back at the end.
"""

import hashlib
import inspect
import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sprig.core.batches import tensors
from sprig.core.errors import DivergenceError, InputError
from sprig.core.types import device_of
from sprig.training.feed import epoch_batches, feed
from sprig.training.moments import Hook, Moment


@dataclass(eq=False)
class Run:
    """A training under way: the one mutable thing, shared by the loop and its hooks."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    epochs: int
    steps_per_epoch: int
    epoch: int = 0  # finished epochs
    step: int = 0  # finished steps, over all epochs
    lr: float = 0.0  # of the step under way
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    target: Any = None
    output: Any = None
    loss: Tensor | None = None
    row: dict[str, Any] = field(default_factory=dict)  # figures of the epoch under way
    history: list[dict[str, Any]] = field(default_factory=list)  # rows of finished epochs
    stop: bool = False  # a hook may set it; the run then ends with the epoch under way

    @property
    def total_steps(self) -> int:
        return self.epochs * self.steps_per_epoch


Loss = Callable[[Run], Tensor]  # from run.output, run.target, run.args, run.kwargs
Schedule = Callable[[int], float]  # step → factor on every parameter group's own rate


def fit(
    run: Run,
    data: Any,
    *,
    loss: Loss,
    schedule: Schedule,
    hooks: Sequence[Hook] = (),
    seed: int = 0,
    clip: float | None = None,
    bf16: bool = False,
    channels_last: bool = False,
    labels: bool = False,
) -> Run:
    """Train `run.model` in place from `run.epoch` to `run.epochs`.

    `labels`: the model takes labels, and is given those of tokens, since it alone knows how they are shifted.

    `clip` bounds the norm of the whole gradient. `bf16` runs the forward pass under autocast; the
    weights stay as they are. Raises `DivergenceError` at the first loss, or at the first weights
    after an epoch, that are not finite.
    """
    device = device_of(run.model)
    base = [float(group["lr"]) for group in run.optimizer.param_groups]
    weights = [p for group in run.optimizer.param_groups for p in group["params"]]
    with ExitStack() as stack:
        stack.enter_context(
            torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
        )
        for hook in hooks:
            hook(Moment.RUN_OPENS, run)
            stack.callback(hook, Moment.RUN_CLOSES, run)
        while run.epoch < run.epochs and not run.stop:
            torch.manual_seed(epoch_seed(seed, run.epoch))
            run.model.train()
            run.row = {"epoch": run.epoch + 1}
            _tell(hooks, Moment.EPOCH_OPENS, run)
            total, start = 0.0, run.step
            for batch in feed(epoch_batches(data, run.epoch), device):
                run.args, run.kwargs, run.target = batch
                if channels_last:
                    run.args = tuple(_channels_last(a) for a in run.args)
                factor = schedule(run.step)
                for group, rate in zip(run.optimizer.param_groups, base, strict=True):
                    group["lr"] = rate * factor
                run.lr = base[0] * factor
                _tell(hooks, Moment.STEP_OPENS, run)
                with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
                    given = labels and per_token(run.target, (run.args, run.kwargs))
                    told = {"labels": run.target} if given else {}
                    run.output = run.model(*run.args, **run.kwargs, **told)
                run.loss = loss(run)
                _tell(hooks, Moment.LOSS_READY, run)
                value = float(run.loss.detach())
                if not math.isfinite(value):
                    raise DivergenceError(_diverged(run, f"the loss is {value}"))
                run.optimizer.zero_grad(set_to_none=True)
                run.loss.backward()
                _tell(hooks, Moment.GRADIENTS_READY, run)
                if clip is not None:
                    nn.utils.clip_grad_norm_(weights, clip)
                run.optimizer.step()
                run.step += 1
                total += value
                _tell(hooks, Moment.STEP_CLOSES, run)
            if run.step == start:
                raise InputError("the data is empty: an epoch gave no batch")
            if first_not_finite(run.model) is not None:
                raise DivergenceError(_diverged(run, "the epoch ended with broken weights"))
            run.epoch += 1
            run.row |= {"step": run.step, "loss": total / (run.step - start), "lr": run.lr}
            run.history.append(run.row)
            run.output = run.loss = None
            for group, rate in zip(run.optimizer.param_groups, base, strict=True):
                group["lr"] = rate  # what is saved between epochs continues unscaled
            _tell(hooks, Moment.EPOCH_CLOSES, run)
    return run


def per_token(target: Any, inputs: Any) -> bool:
    """Whether labels are those of the tokens of sequences: numbers, one for each of an input's."""
    if not isinstance(target, Tensor) or target.ndim != 2 or target.is_floating_point():
        return False
    return any(t.shape == target.shape and not t.is_floating_point() for t in tensors(inputs))


def takes_labels(model: nn.Module) -> bool:
    """Whether a model reckons a loss itself where it is given labels."""
    try:
        return "labels" in inspect.signature(model.forward).parameters
    except (TypeError, ValueError):
        return False


def epoch_seed(seed: int, epoch: int) -> int:
    """The seed of one epoch: 63 bits of a hash, so that neighbouring seeds and epochs share nothing."""
    text = f"sprig epoch {seed} {epoch}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1


def first_not_finite(model: nn.Module) -> str | None:
    """The name of the first parameter or buffer that holds NaN or infinity."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            return name
    return None


def _diverged(run: Run, what: str) -> str:
    name = first_not_finite(run.model)
    where = f"first tensor that is not finite: {name}" if name else "all weights are still finite"
    return (
        f"training diverged at step {run.step} (epoch {run.epoch + 1}): {what}; {where}; "
        "lower the learning rate, lengthen the warm-up or set a gradient clip, and check the inputs"
    )


def _tell(hooks: Sequence[Hook], moment: Moment, run: Run) -> None:
    for hook in reversed(hooks) if moment.backwards else hooks:
        hook(moment, run)


def _channels_last(value: Any) -> Any:
    if isinstance(value, Tensor) and value.ndim == 4:
        return value.contiguous(memory_format=torch.channels_last)
    return value
