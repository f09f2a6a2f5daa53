"""Fine-tuning (and plain training) of a copy of the user's model, with labels, with a teacher, or with both.

What is reported is the last epoch, never the best one on the data it was measured on.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sprig.core.errors import InputError
from sprig.core.outputs import logits_of
from sprig.core.padding import live_tokens, token_masks
from sprig.core.types import device_of
from sprig.core.weights import sha256_model
from sprig.training.checkpoint import Checkpoint
from sprig.training.config import FinetuneConfig, Settings, TrainConfig, optimizer_for, schedule_for
from sprig.training.distill import class_dim, kl_loss, main_output, squared_loss
from sprig.training.evaluate import accuracy, evaluating
from sprig.training.feed import count_batches, feed, move
from sprig.training.loop import Loss, Run, fit, per_token, takes_labels
from sprig.training.moments import Hook, Moment

Criterion = Callable[[Any, Any], Tensor]  # the model's output and the target → a number
Maker = Callable[[nn.Module], torch.optim.Optimizer]


@dataclass(frozen=True, eq=False)
class TrainRecord:
    """What a training gave: the trained copy and one row of figures per epoch, the last of which counts."""

    model: nn.Module
    history: tuple[Mapping[str, Any], ...]  # epoch, step, loss (mean of the epoch), lr, accuracy
    config: Settings
    steps: int
    resumed: bool  # continued from a checkpoint

    @property
    def last(self) -> Mapping[str, Any]:
        """The row of the last epoch."""
        return self.history[-1]


def finetune(
    model: nn.Module,
    data: Any,
    *,
    config: Settings | None = None,
    teacher: nn.Module | None = None,
    loss: Criterion | None = None,
    evaluation: Any = None,
    hooks: Sequence[Hook] = (),
    folder: str | Path | None = None,
    resume: bool = False,
    optimizer: Maker | None = None,
) -> TrainRecord:
    """Train a copy of `model` on `data`; the model given is not touched.

    `data` is any re-iterable of batches; with a method `epoch(n)` it gives each epoch its own order.
    Targets that are class numbers are learned with cross-entropy; for others give
    `loss(output, target)`. A `teacher` adds distillation, and does alone where there are no labels.
    `evaluation` is measured after each epoch (accuracy). With a `folder` the state is saved after
    every epoch and `resume=True` continues from it with the same bits, provided that the data draws
    its random numbers from torch or from (seed, epoch). `optimizer(model)` makes another optimiser than the
    config's; the schedule scales its rates all the same.

    >>> data = [(torch.ones(4, 5), torch.tensor([0, 1, 2, 2]))]
    >>> record = finetune(nn.Linear(5, 3), data, config=FinetuneConfig(epochs=2))
    >>> len(record.history), record.steps
    (2, 2)
    """
    config = FinetuneConfig() if config is None else config
    steps_per_epoch = count_batches(data)
    trained = copy.deepcopy(model)
    if config.channels_last:
        trained = trained.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    run = Run(
        model=trained,
        optimizer=optimizer_for(trained, config) if optimizer is None else optimizer(trained),
        epochs=config.epochs,
        steps_per_epoch=steps_per_epoch,
    )
    own: list[Hook] = [] if evaluation is None else [Evaluation(evaluation)]
    resumed = False
    if folder is not None:
        identity = {
            "settings": asdict(config),
            "starting weights": sha256_model(model),
            "teacher": None if teacher is None else sha256_model(teacher),
            "steps per epoch": steps_per_epoch,
        }
        if optimizer is not None:
            identity["optimizer"] = f"{type(run.optimizer).__name__} {run.optimizer.defaults}"
        checkpoint = Checkpoint(Path(folder), identity=identity, data=data, hooks=hooks)
        resumed = checkpoint.prepare(resume=resume)
        if resumed:
            checkpoint.restore(run)
        own.insert(0, checkpoint)
    with ExitStack() as stack:
        if teacher is not None:
            stack.enter_context(evaluating(teacher))
        fit(
            run,
            data,
            loss=objective(config, teacher=teacher, criterion=loss),
            schedule=schedule_for(config, steps_per_epoch=steps_per_epoch),
            hooks=(*own, *hooks),
            seed=config.seed,
            clip=config.clip,
            bf16=config.bf16,
            channels_last=config.channels_last,
            labels=loss is None and takes_labels(trained),
        )
    if config.channels_last:
        trained = trained.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    for ours, theirs in zip(trained.modules(), model.modules(), strict=True):
        ours.training = theirs.training
    for parameter in trained.parameters():
        parameter.grad = None
    return TrainRecord(
        model=trained,
        history=tuple(run.history),
        config=config,
        steps=run.step,
        resumed=resumed,
    )


def train(
    model: nn.Module, data: Any, *, config: TrainConfig | None = None, **options: Any
) -> TrainRecord:
    """`finetune` with the settings of a training from scratch; the same loop, the same record."""
    return finetune(model, data, config=TrainConfig() if config is None else config, **options)


class Evaluation:
    """Measures the accuracy when an epoch closes and writes it into the epoch's row; of sequences whose labels may be
    shifted against the answer the model's own loss."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __call__(self, moment: Moment, run: Run) -> None:
        if moment is not Moment.EPOCH_CLOSES:
            return
        found = mean_own_loss(run.model, self.data)
        if found is None:
            run.row["accuracy"] = accuracy(run.model, self.data)
        else:
            run.row["evaluation loss"] = found


def mean_own_loss(model: nn.Module, data: Any) -> float | None:
    """What the model itself says of labels for every token, mean over batches; None where it does not."""
    if not takes_labels(model):
        return None
    losses = []
    with torch.no_grad(), evaluating(model):
        for args, kwargs, target in feed(data, device_of(model)):
            if not per_token(target, (args, kwargs)):
                return None
            own = own_loss(model(*args, **kwargs, labels=target))
            if own is None:
                return None
            losses.append(float(own))
    return sum(losses) / len(losses) if losses else None


def own_loss(output: Any) -> Tensor | None:
    """The loss beside the logits of a sequence, where labels were given with the inputs."""
    logits, loss = logits_of(output), getattr(output, "loss", None)
    if isinstance(output, Mapping):
        loss = output.get("loss", loss)
    if logits is None or logits.ndim != 3 or not isinstance(loss, Tensor) or loss.ndim:
        return None
    return loss


def objective(
    config: Settings, *, teacher: nn.Module | None = None, criterion: Criterion | None = None
) -> Loss:
    """The number to lower: labels' loss and distillation, weighted (1 - d) and d."""

    def value(run: Run) -> Tensor:
        share = config.distillation if teacher is not None else 0.0
        if run.target is None:
            if teacher is None:
                raise InputError("the data has no labels; give (input, target) pairs or a teacher")
            share = 1.0
        total: Tensor | None = None
        if share < 1.0:
            own = own_loss(run.output)
            if criterion is not None:
                labels = criterion(run.output, run.target)
            elif own is not None:
                if config.smoothing:
                    raise InputError(
                        "the model itself reckons the loss of a sequence's labels, without smoothing; "
                        "give loss= for both"
                    )
                labels = own
            else:
                labels = class_loss(main_output(run.output), run.target, config.smoothing)
            total = labels if share == 0.0 else (1.0 - share) * labels
        if share > 0.0:
            assert teacher is not None
            taught = share * distillation(run, teacher, config)
            total = taught if total is None else total + taught
        assert total is not None
        return total

    return value


def class_loss(logits: Tensor, target: Any, smoothing: float) -> Tensor:
    """Cross-entropy with class numbers, wherever the classes are (see `class_dim`)."""
    dim = class_dim(logits)
    shape = logits.shape[:dim] + logits.shape[dim + 1 :]
    if not isinstance(target, Tensor) or target.is_floating_point() or target.shape != shape:
        found = (
            f"{target.dtype} of shape {tuple(target.shape)}"
            if isinstance(target, Tensor)
            else type(target).__name__
        )
        raise InputError(
            f"the target is {found}; for logits of shape {tuple(logits.shape)} expected class numbers of shape "
            f"{tuple(shape)}: give loss= for anything else"
        )
    return F.cross_entropy(logits.movedim(dim, 1).float(), target.long(), label_smoothing=smoothing)


def distillation(run: Run, teacher: nn.Module, config: Settings) -> Tensor:
    """How far the run's output is from what the teacher answers to the same batch."""
    args, kwargs = move((run.args, run.kwargs), device_of(teacher))
    with torch.no_grad():
        device = device_of(teacher)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.bf16):
            answer = main_output(teacher(*args, **kwargs))
    output = main_output(run.output)
    answer = answer.to(output.device)
    if output.ndim == 3 and output.shape == answer.shape:
        live = live_tokens(token_masks(run.model, run.args, run.kwargs), output)
        if live is not None:  # nothing is learned from padding
            output, answer = output[live], answer[live]
    if config.match == "values":
        return squared_loss(output, answer)
    return kl_loss(output, answer, temperature=config.temperature)
