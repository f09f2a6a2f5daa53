"""Distillation: the smaller network learns from what the dense one answers, with or without labels.

Hinton, Vinyals & Dean 2015. T → temperature; s, t → logits of student and teacher (batch, classes, ...);
loss = T^2 · mean over decisions of KL(softmax(t / T) || softmax(s / T)). The factor T^2 keeps the size of
the gradient when T changes.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sprig.core.errors import InputError

MAIN = ("logits", "out", "logits_per_image", "last_hidden_state")


def main_output(output: Any) -> Tensor:
    """The tensor that a model's answer is about: itself, its logits, "out", its last hidden state, or the first
    of a tuple. Names count in dicts and as attributes.

    >>> main_output({"logits": torch.zeros(2, 3), "hidden": torch.zeros(2)}).shape
    torch.Size([2, 3])
    """
    if isinstance(output, Tensor):
        return output
    for key in MAIN:
        found = output.get(key) if isinstance(output, Mapping) else getattr(output, key, None)
        if isinstance(found, Tensor):
            return found
    if isinstance(output, (tuple, list)) and output and isinstance(output[0], Tensor):
        return output[0]
    raise InputError(
        f"the model returned {type(output).__name__}; expected a tensor, a tuple that starts with one, "
        f"or something with one of {', '.join(MAIN)}"
    )


def class_dim(logits: Tensor) -> int:
    """Where the classes are: dimension 1 of (batch, classes) and of maps (batch, classes, h, w), last of sequences."""
    return 1 if logits.ndim >= 4 else logits.ndim - 1


def kl_loss(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """T^2 times the mean Kullback-Leibler divergence from the teacher's softened answer to the student's.

    >>> t = torch.tensor([[2.0, 0.0]])
    >>> float(kl_loss(t, t, temperature=4.0))
    0.0
    """
    check_shapes(student, teacher)
    dim = class_dim(teacher)
    log_s = F.log_softmax(student.float() / temperature, dim)
    log_t = F.log_softmax(teacher.float() / temperature, dim)
    kl = (log_t.exp() * (log_t - log_s)).sum(dim)
    return temperature**2 * kl.mean()


def squared_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """The squared error relative to the teacher's squared size; for outputs that are not logits."""
    check_shapes(student, teacher)
    teacher = teacher.float()
    size = teacher.square().sum().clamp_min(torch.finfo(torch.float32).tiny)
    return (student.float() - teacher).square().sum() / size


def check_shapes(student: Tensor, teacher: Tensor) -> None:
    """Both must answer the same question."""
    if student.shape != teacher.shape:
        raise InputError(
            f"the outputs differ in shape: {tuple(student.shape)} and {tuple(teacher.shape)}; "
            "the two networks must answer the same question"
        )
