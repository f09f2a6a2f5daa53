"""Study `finetune-or-retrain`: what of a pruned network is worth keeping: its weights, its channels, or its shape?

Every arm has the widths that `refit` gave the trained dense network at one budget, so the same shape. They differ in
the channels that are in it, in where the weights come from, and in how long they are trained. Sources: Ye et al. 2020,
who advise to inherit on MobileNets; Liu et al. 2019, who found that training the small shape anew does as well.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sprig.core.plan import Plan
from sprig.core.types import Budget
from sprig.core.weights import load_into, state_of, write_tensors
from sprig.data import load
from sprig.data.batches import Batches, random_seed
from sprig.data.specs import Split
from sprig.methods.greedy.loss import LossConfig
from sprig.models import REFERENCE
from sprig.studies.finetune_or_retrain_page import LONG, SHORT, conclude
from sprig.studies.record import Cell, Figures, Study
from sprig.training import (
    FinetuneConfig,
    TrainConfig,
    accuracy,
    finetune,
    reestimate_batch_norm,
    train,
)
from sprig.workflow import prune, search, shrink


@dataclass(frozen=True)
class Settings:
    """Sizes of the study."""

    seeds: tuple[int, ...] = (0, 1, 2)
    nets: tuple[str, ...] = ("resnet20", "mobilenetv2-small")
    options: tuple[tuple[str, Any], ...] = ()  # of their constructors
    data: str = "fashion-mnist"
    images: int = 4000  # that train
    validation: int = 1000  # that rates are chosen on
    test: int = 3000
    calibration: int = 256
    batch: int = 64
    macs: float = 0.5
    dense_epochs: int = 6
    epochs: int = 2  # of an arm; the long ones get dense_epochs + epochs
    dense_rates: tuple[float, ...] = (0.05, 0.1)
    rates: tuple[float, ...] = (
        0.02,
        0.1,
    )  # of every arm, chosen on validation images with the first seed
    candidates: int = 12  # channels tried per pick by the selection on labels


@dataclass(frozen=True, eq=False)
class Data:
    """The four parts; training images are seen in random crops."""

    train: Batches
    check: Batches
    test: Batches
    calibration: Batches


def parts(settings: Settings) -> Data:
    """Images that train are not those that validate: different tenths of the training part."""

    def part(split: Split, limit: int, fold: str | None, batch: int) -> Batches:
        return load(settings.data, split=split, batch_size=batch, limit=limit, fold=fold)

    return Data(
        part("train", settings.images, "0/2", settings.batch),
        part("calibration", settings.validation, "1/2", 250),
        part("test", settings.test, None, 250),
        part("calibration", settings.calibration, "0/2", 64),
    )


def cells(settings: Settings) -> Mapping[str, Cell]:
    """The dense network and the arms of each network and seed; the first seed's arms choose the rates."""
    out: dict[str, Cell] = {}
    for net in settings.nets:
        for seed in settings.seeds:
            out[f"{net} {seed} dense"] = partial(dense_cell, settings, net, seed)
            for arm in (*SHORT, *LONG):
                out[f"{net} {seed} {arm}"] = partial(arm_cell, settings, net, seed, arm)
    return out


def untrained(settings: Settings, net: str, seed: int) -> nn.Module:
    """The dense shape with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(random_seed(seed, 11))
        return REFERENCE[net](in_channels=1, **dict(settings.options))


def trained(settings: Settings, net: str, seed: int, work: Path) -> nn.Module:
    """The dense network, trained unless its weights are in `work`; the rate that validates best."""
    file = work / f"{net}-{seed}.safetensors"
    model = untrained(settings, net, seed)
    if not file.is_file():
        data, epochs, tried = parts(settings), settings.dense_epochs, []
        for rate in settings.dense_rates:
            config = TrainConfig(epochs=epochs, lr=rate, warmup=min(1.0, epochs / 4), seed=seed)
            done = train(model, data.train, config=config).model.eval()
            tried.append((accuracy(done, data.check), -rate, done))
        best = max(tried, key=lambda t: t[:2])
        write_tensors(file, state_of(best[2]))
    load_into(model, file)
    return model.eval()


def dense_cell(settings: Settings, net: str, seed: int, work: Path) -> Figures:
    """Accuracy of the dense network, and the sizes of what it is cut to."""
    model, data = trained(settings, net, seed, work), parts(settings)
    result = prune(model, example(data), data.calibration, Budget(macs=settings.macs))
    plan, weights = _files(net, seed, work)
    plan.write_text(result.plan.to_json(), encoding="utf-8")
    write_tensors(weights, state_of(result.model))
    return {
        "accuracy": accuracy(model, data.test),
        "macs": [result.before.macs, result.after.macs],
        "params": [result.before.params, result.after.params],
    }


def example(data: Data) -> tuple[Any]:
    """The arguments of one call."""
    x, _ = next(iter(data.calibration))
    return (x[:2],)


def _files(net: str, seed: int, work: Path) -> tuple[Path, Path]:
    return work / f"{net}-{seed}.plan.json", work / f"{net}-{seed}.refit.safetensors"


def reference(
    settings: Settings, net: str, seed: int, data: Data, work: Path
) -> tuple[nn.Module, Plan, nn.Module]:
    """The dense network, the plan of `refit` at the budget, which gives every arm its widths, and its small network."""
    dense = trained(settings, net, seed, work)
    file, weights = _files(net, seed, work)
    if not file.is_file() or not weights.is_file():
        dense_cell(settings, net, seed, work)
    plan = Plan.from_json(file.read_text(encoding="utf-8"))
    small = shrink(dense, plan, example(data))
    load_into(small, weights)
    return dense, plan, small


def same_sizes(plan: Plan, orders: Mapping[str, Any]) -> Plan:
    """A plan of the same sizes whose units are the first of other orders."""
    keep = {name: tuple(sorted(orders[name][: len(kept)])) for name, kept in plan.keep.items()}
    return Plan(keep=keep, sizes=plan.sizes, graph=plan.graph, cost=plan.cost)


def renewed(model: nn.Module, seed: int) -> nn.Module:
    """A copy whose every layer draws its weights anew, for the widths that it has."""
    twin = copy.deepcopy(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(random_seed(seed, 12))
        for module in twin.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
    return twin


def begin(settings: Settings, net: str, seed: int, arm: str, data: Data, work: Path) -> nn.Module:
    """The small network that an arm starts its training from."""
    dense, plan, refitted = reference(settings, net, seed, data, work)
    at = example(data)
    if arm == "inherited, refitted":
        return refitted
    if arm.startswith("drawn anew"):
        return renewed(refitted, seed)
    if arm == "inherited, as they are":
        small = shrink(dense, plan, at)
    elif arm == "random channels, inherited":
        generator = torch.Generator().manual_seed(random_seed(seed, 13))
        orders = {n: torch.randperm(plan.sizes[n], generator=generator).tolist() for n in plan.keep}
        small = shrink(dense, same_sizes(plan, orders), at)
    else:  # picked on labels in a network that was never trained
        blank = untrained(settings, net, seed).eval()
        reestimate_batch_norm(blank, data.calibration)
        small = shrink(blank, on_labels(settings, net, seed, blank, plan, data, work), at)
    reestimate_batch_norm(small, data.calibration)
    return small


def on_labels(
    settings: Settings, net: str, seed: int, blank: nn.Module, plan: Plan, data: Data, work: Path
) -> Plan:
    """The published algorithm on labels in an untrained network, at the sizes of `plan`; made once for both arms."""
    file = work / f"{net}-{seed}.labels.json"
    if not file.is_file():
        config = LossConfig(
            candidates=settings.candidates,
            prescreen=4,
            batch=64,
            check=128,
            samples=settings.calibration,
            full_path=True,
        )
        found = search(
            blank, example(data), data.calibration, method="loss", config=config, seed=seed
        )
        own = same_sizes(plan, {name: path.order for name, path in found.groups.items()})
        file.write_text(own.to_json(), encoding="utf-8")
    return Plan.from_json(file.read_text(encoding="utf-8"))


def arm_cell(settings: Settings, net: str, seed: int, arm: str, work: Path) -> Figures:
    """Test accuracy of an arm before and after its training."""
    data = parts(settings)
    small = begin(settings, net, seed, arm, data, work)
    long = arm in LONG
    epochs = settings.epochs + (settings.dense_epochs if long else 0)
    rates = settings.rates
    chosen = work / f"{net}-{arm}.rate"
    if seed != settings.seeds[0] and chosen.is_file():
        rates = (float(chosen.read_text()),)
    tried = []
    for rate in rates:
        config = FinetuneConfig(epochs=epochs, lr=rate, warmup=min(1.0, epochs / 4), seed=seed)
        done = finetune(small, data.train, config=config).model
        tried.append((accuracy(done, data.check), -rate, done))
    best = max(tried, key=lambda t: t[:2])
    if seed == settings.seeds[0]:
        chosen.write_text(str(-best[1]))
    return {
        "before": accuracy(small, data.test),
        "after": accuracy(best[2], data.test),
        "validation": best[0],
        "rate": -best[1],
        "epochs": epochs,
        "params": sum(p.numel() for p in small.parameters()),
    }


STUDY = Study(
    name="finetune-or-retrain",
    question="What of a pruned network is worth keeping: its weights, its choice of channels, or its shape?",
    sources="Ye et al. 2020 (inherit); Liu et al. 2019, Rethinking the value of network pruning (train anew).",
    full=Settings(),
    quick=Settings(
        seeds=(0,),
        nets=("lenet-5",),
        options=(("image_size", 16), ("widths", (8, 16, 32))),
        data="digits:16",
        images=512,
        validation=128,
        test=200,
        calibration=64,
        batch=32,
        dense_epochs=3,
        epochs=1,
        dense_rates=(0.05,),
        rates=(0.03,),
        candidates=4,
    ),
    cells=cells,
    conclude=conclude,
    budget=lambda s: (
        f"dense networks: {s.dense_epochs} epochs over {s.images} images, {len(s.dense_rates)} "
        f"rates. Every arm: {s.epochs} epochs, {len(s.rates)} rates chosen with the first seed on "
        f"{s.validation} images that do not train; long arms, which are spared the dense "
        f"training, {s.dense_epochs + s.epochs} epochs."
    ),
)  # fmt: skip
