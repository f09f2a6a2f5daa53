"""The ground that every benchmark on Fashion-MNIST stands on: data, dense networks, the counter, the recipe.

Of the 60,000 training images 55,000 train and 5,000 validate (a fixed permutation); every choice (learning rate,
variant of a peer) is made on the validation images, and the 10,000 test images are only ever reported.
Calibration: 1,024 training images without augmentation.
"""

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from sprig.data import crop_and_flip
from sprig.data.arrays import fashion_mnist
from sprig.models import resnet20
from sprig.training import FinetuneConfig, TrainConfig, accuracy, train

CALIBRATION = 1024
VALIDATION = 5000
EXAMPLE = torch.zeros(1, 1, 28, 28)
DENSE = TrainConfig(epochs=14, lr=0.1, warmup=1.0, bf16=True, channels_last=True)
TUNING = FinetuneConfig(epochs=1, bf16=True, channels_last=True)
RATES = (0.01, 0.03, 0.1)
RATES_OF_LARGE = (0.003, 0.01, 0.03)  # of networks that keep more than 35% of the multiply-adds

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Images:
    """Images and labels in memory; `epoch(n)` shuffles, crops and mirrors, plain iteration does not."""

    images: Tensor
    labels: Tensor
    batch: int
    seed: int = 0

    def __len__(self) -> int:
        return len(self.images) // self.batch  # of one epoch, which drops a rest

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, len(self.images), self.batch):
            here = slice(start, start + self.batch)
            yield self.images[here], self.labels[here]

    def epoch(self, number: int) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        order = torch.randperm(len(self.images), generator=generator)
        black = float(self.images.min())
        for start in range(0, len(order) - self.batch + 1, self.batch):
            index = order[start : start + self.batch]
            yield (
                crop_and_flip(self.images[index], generator, pad=2, fill=black),
                self.labels[index],
            )


@dataclass(frozen=True, eq=False)
class Bench:
    """Where the dense networks are, and the four parts of the data."""

    folder: Path

    @cached_property
    def _all(self) -> Batch:
        source = fashion_mnist("train")
        everything = range(len(source))
        return source.read([(i, 0) for i in everything], seed=0), source.targets(everything)

    @cached_property
    def _order(self) -> Tensor:
        return torch.randperm(60_000, generator=torch.Generator().manual_seed(0))

    def _part(self, index: Tensor, *, batch: int) -> Images:
        images, labels = self._all
        return Images(images[index], labels[index], batch)

    @cached_property
    def training(self) -> Images:
        return self._part(self._order[:-VALIDATION], batch=128)

    @cached_property
    def calibration(self) -> list[Batch]:
        return list(self._part(self._order[:CALIBRATION], batch=256))

    @cached_property
    def validation(self) -> list[Batch]:
        return list(self._part(self._order[-VALIDATION:], batch=500))

    @cached_property
    def test(self) -> list[Batch]:
        source = fashion_mnist("test")
        everything = range(len(source))
        images = source.read([(i, 0) for i in everything], seed=0)
        return list(Images(images, source.targets(everything), 500))

    def path(self, seed: int) -> Path:
        return self.folder / f"resnet20-seed{seed}.safetensors"

    def dense(self, seed: int) -> nn.Module:
        """The dense network of one seed, ready to be pruned."""
        model = resnet20(in_channels=1)
        model.load_state_dict(load_file(self.path(seed)))
        return model.eval()

    def train_dense(self, seed: int) -> dict[str, Any]:
        """Train one dense network (resumable) and write it with its figures."""
        torch.manual_seed(seed)
        record = train(
            resnet20(in_channels=1),
            replace(self.training, seed=seed),
            config=replace(DENSE, seed=seed),
            evaluation=self.validation,
            folder=self.folder / f"state-seed{seed}",
            resume=True,
        )
        figures = {
            "accuracy": accuracy(record.model, self.test),
            "validation": record.last["accuracy"],
            "epochs": len(record.history),
            "seed": seed,
            "model": "resnet20(in_channels=1)",
        }
        save_file(record.model.state_dict(), self.path(seed))
        self.path(seed).with_suffix(".json").write_text(json.dumps(figures, indent=1))
        return figures


def macs_of(model: nn.Module) -> int:
    """Multiply-adds of convolutions and linear layers on one image: torch's own count, halved."""
    counter = FlopCounterMode(display=False)
    training = model.training
    with torch.no_grad(), counter:
        model.eval()(EXAMPLE)
    model.train(training)
    return counter.get_total_flops() // 2


def params_of(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def fresh(model: nn.Module) -> nn.Module:
    """A copy without gradients, in evaluation mode, everything trainable."""
    twin = copy.deepcopy(model).eval().requires_grad_(True)
    for parameter in twin.parameters():
        parameter.grad = None
    return twin
