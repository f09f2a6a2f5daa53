"""The arms of `shrinkage.py`: networks, settings to try, and how each arm trains and cuts.

Every arm trains for the same number of epochs in all. `penalty`: under a penalty, cut at the end, nothing after.
`magnitude`: without one, cut at the end. `fine-tuned`: trained, cut, and trained on with the zeros held; the last part
of the epochs is taken from the same total. `gradual`: zeros grow by the cube law of Zhu and Gupta
(2017) while it trains. What is cut and not trained on gets its batch norms' statistics anew, as the library does it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from sprig.methods.penalties.cut import apply_masks, keep_largest
from sprig.methods.penalties.ends import with_zeros
from sprig.methods.penalties.halo import Halo
from sprig.methods.penalties.hook import Shrinking
from sprig.methods.penalties.l1 import L1
from sprig.methods.penalties.run import settings_of
from sprig.methods.penalties.scope import penalised
from sprig.models.lenet import LeNet300100
from sprig.models.resnet_small import resnet20
from sprig.models.vgg_small import SmallVGG
from sprig.training import Moment, Run, TrainConfig, train
from sprig.training.masks import HeldZeros

SPARSITIES = (0.8, 0.9, 0.95, 0.98)


@dataclass(frozen=True)
class Net:
    """A network and its ordinary training."""

    make: Any
    lr: float
    batch: int
    augment: bool
    decay: float  # weight decay beside a penalty
    strengths: tuple[float, ...]


def _vgg() -> nn.Module:
    return SmallVGG(in_channels=1, image_size=28, width=16)


NETS = {
    "lenet300100": Net(LeNet300100, 0.05, 100, False, 0.0, (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4)),
    "resnet20": Net(lambda: resnet20(in_channels=1), 0.1, 128, True, 1e-4, (1e-4, 3e-4, 1e-3, 3e-3)),
    "vgg16bn": Net(_vgg, 0.05, 128, True, 1e-4, (1e-4, 3e-4, 1e-3, 3e-3)),
}  # fmt: skip


@dataclass(frozen=True)
class Trial:
    """One setting of one arm."""

    penalty: Any = None
    decay: float | None = None  # in place of the network's own
    tuned: float = 0.0  # share of the epochs that come after the cut
    gradual: float = 0.0  # share of the steps after which the zeros are all there

    def told(self) -> dict[str, Any]:
        """For the results: what differs from nothing."""
        found = {} if self.penalty is None else settings_of(self.penalty)
        plain = {k: getattr(self, k) for k in ("decay", "tuned", "gradual")}
        return found | {k: v for k, v in plain.items() if v}


def arms(net: Net) -> dict[str, list[Trial]]:
    """As many settings for every arm as the network has strengths, but one for plain magnitude."""
    modes = {
        "halo": "joint",
        "halo, closed": "closed",
        "halo, proximal": "proximal",
    }
    decays = (1e-5, 5e-5, 1e-4, 3e-4, 5e-4, 1e-3)
    zeros = (0.0, 1e-4, 5e-4)  # weight decays beside a cut that is trained on
    if len(net.strengths) == 4:
        decays, zeros = (1e-4, 5e-4, 1e-3, 2e-3), (1e-4, 5e-4)
    return {
        "magnitude": [Trial(decay=0.0)],
        "magnitude, weight decay": [Trial(decay=d) for d in decays],
        "magnitude, fine-tuned": [Trial(decay=d, tuned=t) for t in (0.25, 0.5) for d in zeros],
        "gradual magnitude": [Trial(decay=d, gradual=g) for g in (0.5, 0.75) for d in zeros],
        "l1": [Trial(L1(strength=s)) for s in net.strengths],
        **{
            name: [Trial(Halo(xi=s, psi=s, mode=mode)) for s in net.strengths]
            for name, mode in modes.items()
        },
    }


@dataclass(frozen=True, eq=False)
class Images:
    """All images in memory, already normalised; a new order every epoch, shifted and mirrored where asked."""

    x: Tensor
    y: Tensor
    batch: int
    augment: bool = False
    seed: int = 0

    def __len__(self) -> int:
        return len(self.x) // self.batch

    def __iter__(self):
        yield from zip(self.x.split(1000), self.y.split(1000))

    def epoch(self, number: int):
        """The batches of one epoch."""
        from sprig.data import crop_and_flip

        generator = torch.Generator().manual_seed(1000 * self.seed + number)
        order = torch.randperm(len(self.x), generator=generator)
        black = float(self.x.min())
        for i in range(len(self)):
            mine = order[i * self.batch : (i + 1) * self.batch]
            x = self.x[mine]
            if self.augment:
                x = crop_and_flip(x, generator, pad=2, fill=black)
            yield x, self.y[mine]


@dataclass(eq=False)
class Gradual:
    """A hook: the share that is zero grows to `goal` as 1 - (1 - t)^3 until `end` of the steps, every `every` steps."""

    goal: float
    end: float
    every: int = 50
    masks: dict[str, Tensor] = field(default_factory=dict)

    def share(self, progress: float) -> float:
        """What is zero at this share of the steps.

        >>> Gradual(goal=0.8, end=0.5).share(0.25)
        0.7
        """
        return self.goal * (1 - (1 - min(1.0, progress / self.end)) ** 3)

    def __call__(self, moment: Moment, run: Run) -> None:
        if moment is not Moment.STEP_CLOSES:
            return
        zero = self.share(run.step / run.total_steps)
        if run.step % self.every == 0 or run.step == run.total_steps:
            if zero < 1 and run.step <= self.end * run.total_steps + self.every:
                weights = {n: p.detach() for n, p in penalised(run.model).items()}
                self.masks = keep_largest(weights, 1 - zero)
        apply_masks(run.model, self.masks)


def one(
    net: Net, trial: Trial, seed: int, fit: Any, judge: Any, epochs: int, *,
    zeros: Sequence[float] = SPARSITIES, bf16: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """One trial: accuracy before the cut and at every share of `zeros`, in as many trainings as the arm needs."""
    data = Images(*fit, net.batch, net.augment, seed)
    decay = trial.decay if trial.decay is not None else net.decay
    config = TrainConfig(
        epochs=epochs, lr=net.lr, weight_decay=decay, warmup=0.0, seed=seed, bf16=bf16, channels_last=bf16
    )  # fmt: skip

    def start() -> nn.Module:
        torch.manual_seed(seed)
        return net.make()

    row: dict[str, Any] = {}
    if trial.gradual:
        for sparsity in zeros:
            grow = Gradual(goal=sparsity, end=trial.gradual)
            record = train(start(), data, config=config, hooks=[grow])
            row[str(sparsity)] = share_right(record.model, *judge)
        return row | {"uncut": None}
    after = round(trial.tuned * epochs)
    hook = None if trial.penalty is None else Shrinking(trial.penalty)
    first = replace(config, epochs=epochs - after)
    record = train(start(), data, config=first, hooks=[hook] if hook else [])
    row["uncut"] = share_right(record.model, *judge)
    weights = {n: p.detach() for n, p in penalised(record.model).items()}
    for sparsity in zeros:
        masks = keep_largest(weights, 1 - sparsity)
        if after:
            tuning = replace(config, epochs=after, lr=net.lr / 2, seed=seed + 1)
            cut = train(record.model, data, config=tuning, hooks=[HeldZeros(masks)]).model
        else:
            cut = with_zeros(record.model, masks, data, seed=seed)
        row[str(sparsity)] = share_right(cut, *judge)
    if hook is not None:
        keys = ("zeros", "tiny", "coefficient_median")
        row |= {k: v for k, v in record.last.items() if k in keys}
    return row


@torch.no_grad()
def share_right(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Accuracy."""
    model.eval()
    parts = zip(x.split(1000), y.split(1000))
    return sum(int((model(a).argmax(1) == b).sum()) for a, b in parts) / len(x)
