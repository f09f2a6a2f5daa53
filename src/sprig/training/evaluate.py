"""How good a network is: accuracy on labels, agreement with the dense network without them."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sprig.core.batches import tensors
from sprig.core.errors import InputError
from sprig.core.outputs import answer_of
from sprig.core.padding import Masks, blank, live_tokens, token_masks
from sprig.core.types import device_of
from sprig.training.distill import check_shapes, class_dim, main_output
from sprig.training.feed import feed, move

IGNORED = -100  # the target that torch's cross-entropy passes over
CONFIDENT = 0.5  # the dense network's probability above which its decision counts as confident


@dataclass(frozen=True)
class Agreement:
    """How far a network answers like the dense one. Without logits only the last two are given.

    A decision is one sample, or one pixel or position of an answer that has many.
    """

    count: int  # decisions; samples without logits
    confident: int  # decisions where the dense network's top probability exceeds 0.5
    top1: float | None  # share of decisions with the same largest logit
    confident_top1: float | None  # the same among the confident; None if there are none
    kl: float | None  # mean over decisions of KL(dense || pruned), in nats
    relative_error: float  # squared error of all outputs over the squared size of the dense ones
    cosine: float  # mean over samples of the cosine between the two outputs


@torch.no_grad()
def accuracy(model: nn.Module, data: Iterable[Any]) -> float:
    """Share of targets (class numbers) that the largest logit hits; the model's flags come back as they were.

    >>> accuracy(nn.Identity(), [(torch.eye(4), torch.tensor([0, 1, 2, 0]))])
    0.75
    """
    hits = count = 0
    with evaluating(model):
        for args, kwargs, target in feed(data, device_of(model)):
            if target is None:
                raise InputError("accuracy needs labels: the data gives inputs only")
            logits = main_output(model(*args, **kwargs))
            dim = class_dim(logits)
            if target.shape != logits.shape[:dim] + logits.shape[dim + 1 :]:
                raise InputError(
                    f"targets of shape {tuple(target.shape)} do not fit logits of shape "
                    f"{tuple(logits.shape)}; accuracy needs one class number per decision"
                )
            stated = target != IGNORED
            hits += int((logits.argmax(dim) == target)[stated].sum())
            count += int(stated.sum())
    if count == 0:
        raise InputError("the data is empty or holds no target: accuracy needs at least one batch")
    return hits / count


@torch.no_grad()
def agreement(
    dense: nn.Module, pruned: nn.Module, data: Iterable[Any], *, logits: bool = True
) -> Agreement:
    """Compare the answers of two networks on `data`; labels are ignored, and so is padding (see core.padding).

    With `logits=False` the outputs are taken as plain vectors (features, regressions).

    >>> a = agreement(nn.Identity(), nn.Identity(), [torch.eye(3)])
    >>> a.top1, a.kl, a.count, a.relative_error
    (1.0, 0.0, 3, 0.0)
    """
    count = confident = same = same_confident = samples = 0
    kl = error = size = cosine = 0.0
    with evaluating(dense), evaluating(pruned):
        device = device_of(pruned)
        for args, kwargs, _ in feed(data, device_of(dense)):
            want = dense(*args, **kwargs)
            args, kwargs = move((args, kwargs), device)
            have = pruned(*args, **kwargs)
            masks = token_masks(dense, args, kwargs)
            both = list(_pairs(want, have, masks))
            for w, h in both:
                error += float((h - w).square().sum())
                size += float(w.square().sum())
            flat_w, flat_h = (torch.cat([p[i].flatten(1) for p in both], 1) for i in (0, 1))
            cosine += float(F.cosine_similarity(flat_w, flat_h, dim=1).sum())
            samples += len(flat_w)
            if logits:
                w, h = main_output(want).double(), main_output(have).double().to(flat_w.device)
                dim = class_dim(w)
                live = live_tokens(masks, w) if w.ndim == 3 else None
                if live is not None:  # a decision at padding is none
                    w, h, dim = w[live], h[live], 1
                log_w, log_h = F.log_softmax(w, dim), F.log_softmax(h, dim)
                sure = log_w.amax(dim) > math.log(CONFIDENT)
                match = w.argmax(dim) == h.argmax(dim)
                count += match.numel()
                confident += int(sure.sum())
                same += int(match.sum())
                same_confident += int((match & sure).sum())
                kl += float(F.kl_div(log_h, log_w, reduction="sum", log_target=True))
    if samples == 0:
        raise InputError("the data is empty: agreement needs at least one batch")
    return Agreement(
        count=count if logits else samples,
        confident=confident,
        top1=same / count if logits else None,
        confident_top1=same_confident / confident if confident else None,
        kl=kl / count if logits else None,
        relative_error=error / size if size else (0.0 if error == 0 else math.inf),
        cosine=cosine / samples,
    )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """The model in evaluation mode; every module's own flag comes back."""
    flags = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield model
    finally:
        for module, flag in flags.items():
            module.training = flag


def _pairs(want: Any, have: Any, masks: Masks) -> Iterator[tuple[Tensor, Tensor]]:
    """The floating tensors of both answers, side by side, in float64 on the first one's device."""
    ours = blank(masks, (t for t in tensors(_plain(want)) if t.is_floating_point()))
    theirs = blank(masks, (t for t in tensors(_plain(have)) if t.is_floating_point()))
    if not ours or len(ours) != len(theirs):
        raise InputError(
            f"the two networks give {len(ours)} and {len(theirs)} floating tensors; "
            "expected the same number, at least one"
        )
    for w, h in zip(ours, theirs, strict=True):
        check_shapes(h, w)
        rows = (len(w), -1) if w.ndim > 1 else (-1, 1)
        yield w.double().reshape(rows), h.double().to(w.device).reshape(rows)


def _plain(output: Any) -> Any:
    """Its logits where it names them, else all of it; unknown objects count as their main tensor."""
    answer = answer_of(output)
    return answer if isinstance(answer, (Tensor, dict, tuple, list)) else main_output(output)
