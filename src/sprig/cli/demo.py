"""The whole story on handwritten digits: train, cut to half without retraining, certify; about a minute."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from sprig.cli.console import Screen
from sprig.cli.options import CommonOptions

DENSE = (
    "dense.safetensors"  # the trained network, in the run folder, so that the folder is complete
)
EPOCHS = 12
WIDTH = 16
IMAGES = 512  # that the search looks at


def run(
    common: CommonOptions,
    *,
    out: Annotated[
        str | None,
        typer.Option("--out", help="Folder of the run; sprig-demo, or the next free number."),
    ] = None,
    macs: Annotated[
        float, typer.Option("--macs", help="Share of the multiply-adds to keep.")
    ] = 0.5,
) -> None:
    """Train a small residual network on scikit-learn's digits and cut it in half."""
    from sprig.cli.options import BudgetOptions, DataOptions, EvalOptions, ModelOptions
    from sprig.cli.prune import budget_of, conclude
    from sprig.cli.session import (
        config_of,
        example_of,
        load_data,
        load_held_out,
        load_model,
        prepare,
        undoing,
    )
    from sprig.cli.train import steps
    from sprig.core.store import RunFolder
    from sprig.training import TrainConfig, accuracy, train
    from sprig.workflow import prune

    screen = Screen(json=common.json)
    budget = budget_of(BudgetOptions(macs=str(macs)))
    folder = RunFolder.create(out if out is not None else free_name())
    model = ModelOptions(model="sprig:resnet20", model_args=f"width={WIDTH}", weights=DENSE)
    data = DataOptions(data="digits", images=IMAGES)
    training = DataOptions(data="digits")
    config = TrainConfig(epochs=EPOCHS, seed=common.seed)
    with undoing(folder), screen.bars() as bars:
        prepare(common)
        loaded = load_model(replace(model, weights=None), data="digits")
        batches = load_data(training, loaded, split="train", seed=common.seed)
        test = load_held_out(training, EvalOptions(), loaded, seed=common.seed)
        assert test is not None  # digits come with a part held out
        screen.say(
            f"1. Training a ResNet-20 on {batches.samples} handwritten digits, {EPOCHS} epochs."
        )
        trained = train(loaded.model, batches, config=config, hooks=[steps(bars)])
        dense = trained.model.eval()
        folder.put_model(dense, name=DENSE)
        screen.say(
            f"   It reads {100 * accuracy(dense, test):.1f}% of {test.samples} new digits right."
        )
        screen.say(
            f"2. Cutting it to {100 * macs:g}% of its multiply-adds: {IMAGES} images, no labels, "
            "no retraining."
        )
        calibration = load_data(data, loaded, split="calibration", seed=common.seed)
        prune(
            dense,
            example_of(calibration),
            calibration,
            budget,
            eval_data=test,
            folder=folder,
            seed=common.seed,
            progress=bars,
        )
        command = config_of("demo", model, data, EvalOptions(), common, training=asdict(config))
        command["model"]["weights"] = DENSE  # beside config.json, not in the folder we run in
        log = tuple({"kind": "epoch", **row} for row in trained.history)
    screen.say("3. What came out:\n")
    conclude(screen, folder, command, loaded.built, report=True, log=log)
    story(screen, folder.path)


def free_name(name: str = "sprig-demo") -> Path:
    """`name`, or `name-2`, `name-3`, ...: the first that is not taken."""
    path, number = Path(name), 1
    while path.exists() and (not path.is_dir() or any(path.iterdir())):
        number += 1
        path = Path(f"{name}-{number}")
    return path


def story(screen: Screen, path: Any) -> None:
    """What to do next."""
    screen.say("\nWhat next:")
    for command, does in (
        (f"sprig verify {path}", "recompute every claim"),
        (f"sprig finetune {path} --out {path}-tuned", "train it further"),
        (f"sprig export {path}", "write it as ONNX"),
    ):
        screen.say(f"  {command:<50} {does}")
    screen.say(f"  open {path / 'report.html'}")
