"""What may be set about a training, and what the settings mean for optimiser and schedule."""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol

import torch
from torch import nn

from sprig.core.errors import InputError
from sprig.training import schedules
from sprig.training.loop import Schedule

NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.LocalResponseNorm,
)


@dataclass(frozen=True)
class Settings(Protocol):
    """What every training has; the batch size is the data's. Not to be used as it is: see the two below."""

    epochs: int = 1  # passes over the data
    lr: float = 0.01  # highest learning rate
    optimizer: Literal["sgd", "adamw"] = "sgd"  # sgd is with Nesterov's momentum
    momentum: float = 0.9  # of sgd
    weight_decay: float = 5e-4  # never on norms and biases
    smoothing: float = 0.0  # label smoothing
    schedule: Literal["cosine", "linear", "constant", "steps"] = "cosine"
    warmup: float = 0.0  # epochs over which the rate rises to lr
    milestones: tuple[int, ...] = ()  # epochs after which "steps" divides the rate by ten
    clip: float | None = None  # largest norm of the whole gradient
    temperature: float = 4.0  # of the distillation, when there is a teacher
    distillation: float = 0.9  # its weight against the labels' loss; 1 where there are none
    match: Literal["logits", "values"] = "logits"  # what the teacher teaches: classes or values
    bf16: bool = False  # forward pass in bfloat16
    channels_last: bool = False  # memory layout of images; often faster
    seed: int = 0

    def __post_init__(self) -> None:
        for name, fine, wanted in (
            ("epochs", self.epochs >= 1, "at least 1"),
            ("lr", self.lr > 0, "more than 0"),
            ("optimizer", self.optimizer in ("sgd", "adamw"), "sgd or adamw"),
            ("momentum", 0 <= self.momentum < 1, "in [0, 1)"),
            ("weight_decay", self.weight_decay >= 0, "at least 0"),
            ("smoothing", 0 <= self.smoothing < 1, "in [0, 1)"),
            (
                "schedule",
                self.schedule in ("cosine", "linear", "constant", "steps"),
                "cosine, linear, constant or steps",
            ),
            ("warmup", 0 <= self.warmup <= self.epochs, f"in [0, {self.epochs}] epochs"),
            ("clip", self.clip is None or self.clip > 0, "more than 0, or none"),
            ("temperature", self.temperature > 0, "more than 0"),
            ("distillation", 0 <= self.distillation <= 1, "in [0, 1]"),
            ("match", self.match in ("logits", "values"), "logits or values"),
            ("milestones", all(m > 0 for m in self.milestones), "positive epochs"),
        ):
            if not fine:
                raise InputError(f"{name} is {getattr(self, name)!r}, expected {wanted}")


@dataclass(frozen=True)
class FinetuneConfig(Settings):
    """How to fine-tune.

    >>> FinetuneConfig(epochs=3).momentum
    0.9
    """


@dataclass(frozen=True)
class TrainConfig(Settings):
    """How to train from scratch.

    >>> TrainConfig(lr=0.2).epochs
    15
    """

    epochs: int = 15
    lr: float = 0.1
    warmup: float = 1.0


def optimizer_for(model: nn.Module, config: Settings) -> torch.optim.Optimizer:
    """SGD with Nesterov's momentum, or AdamW, over all trainable parameters, in two groups."""
    groups = [g for g in decay_groups(model, config.weight_decay) if g["params"]]
    if not groups:
        raise InputError("the model has no parameter with requires_grad: there is nothing to train")
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr)
    return torch.optim.SGD(
        groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0
    )


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters in two groups: with weight decay, and without (norms, biases, scales)."""
    with_decay: dict[int, nn.Parameter] = {}
    without: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            bare = isinstance(module, NORMS) or parameter.ndim <= 1
            (without if bare else with_decay)[id(parameter)] = parameter
    return [
        {"params": list(with_decay.values()), "weight_decay": weight_decay},
        {"params": list(without.values()), "weight_decay": 0.0},
    ]


def schedule_for(config: Settings, *, steps_per_epoch: int) -> Schedule:
    """The schedule by name, its lengths turned from epochs into steps."""
    warmup = round(config.warmup * steps_per_epoch)
    total = config.epochs * steps_per_epoch
    if config.schedule == "constant":
        return partial(schedules.constant, warmup=warmup)
    if config.schedule == "steps":
        milestones = tuple(m * steps_per_epoch for m in config.milestones)
        return partial(schedules.steps, milestones=milestones, warmup=warmup)
    shape = schedules.cosine if config.schedule == "cosine" else schedules.linear
    return partial(shape, total=total, warmup=warmup)
