"""Train a model into a run folder: plainly, a baseline to prune, or with --method, shrinking it on the way."""

from dataclasses import asdict, replace
from typing import Annotated, Any

import typer

from sprig.cli.console import Bars, Screen
from sprig.cli.options import CommonOptions, DataOptions, EvalOptions, ModelOptions, OutOptions
from sprig.cli.shrinkage import ShrinkOptions, measured, plan_of, traced, train_with
from sprig.training.config import TrainConfig


def run(
    model: ModelOptions,
    data: DataOptions,
    evaluation: EvalOptions,
    config: TrainConfig,
    shrinking: ShrinkOptions,
    out: OutOptions,
    common: CommonOptions,
    *,
    assign: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="A setting of the method; may be repeated.", metavar="KEY=VALUE"
        ),
    ] = None,
) -> None:
    """Train and save; the last epoch is what counts."""
    from sprig.cli.session import (
        config_of,
        described,
        example_of,
        load_data,
        load_held_out,
        load_model,
        prepare,
        undoing,
    )
    from sprig.core.store import RunFolder
    from sprig.core.types import RunRecord
    from sprig.training import train

    screen = Screen(json=common.json)
    chosen = plan_of(shrinking, assign or [])
    folder = RunFolder.create(out.out, resume=out.resume)
    if folder.finished:
        finished(screen, folder)
        return
    notes: tuple[str, ...] = ()
    with undoing(folder), screen.bars() as bars:
        prepare(common)
        more = {"shrinkage": asdict(shrinking), "set": assign or []} if chosen else {}
        command = config_of(
            "train", model, data, evaluation, common, settings=asdict(config), **more
        )
        loaded = load_model(model, data=data.data)
        settings = described(command, loaded.built)
        folder.begin(settings)
        batches = load_data(data, loaded, split="train", seed=common.seed)
        held_out = load_held_out(data, evaluation, loaded, seed=common.seed)
        example = example_of(batches)
        refuse_misfits(loaded.model, example, model.model, data.data)
        graph, why = traced(loaded.model, example, shrinking.method)
        title = f"{model.model} trained on {data.data}"
        if chosen is not None:
            result, record, notes = train_with(
                loaded.model,
                batches,
                chosen,
                folder=folder,
                example=example,
                graph=graph,
                calibration=load_data(data, loaded, split="calibration", seed=common.seed),
                held_out=held_out,
                config=config,
                hook=steps(bars),
                title=f"{title} with {shrinking.method}",
                told=settings,
                remove_empty=shrinking.remove_empty,
            )
        else:
            before = measured(loaded.model, graph, held_out, example)
            trained = train(
                loaded.model,
                batches,
                config=config,
                evaluation=held_out if "accuracy" in before.quality else None,
                hooks=[steps(bars)],
                folder=folder / "state",
                resume=True,
            )
            result = trained.model
            record = RunRecord(
                title=title,
                config=settings,
                plan=None,
                certificate=None,
                before=before,
                after=measured(result, graph, held_out, example),
                groups=(),
                curve=(),
                log=tuple({"kind": "epoch", **row} for row in trained.history),
            )
    if why is not None:
        record = replace(record, log=(*record.log, {"kind": "note", "text": why}))
    for note in [why, *notes]:
        if note is not None:
            screen.note(f"note: {note}")
    conclude(screen, folder, record, result, report=out.report)


def refuse_misfits(model: Any, example: Any, spec: str, data: str) -> None:
    """One clear line where the model cannot take what the data gives; it is left as it was."""
    import torch

    from sprig.core.errors import InputError

    args, kwargs = ((), example) if isinstance(example, dict) else (example, {})
    training = model.training
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            model.eval()(*args, **kwargs)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        first = str(error).strip().splitlines()[0]
        raise InputError(f"{spec} cannot take the samples of {data}: {first}") from None
    finally:
        model.train(training)


def steps(bars: Bars) -> Any:
    """A hook that moves the progress bar."""
    from sprig.training import Moment, Run

    def hook(moment: Moment, run: Run) -> None:
        if moment is Moment.STEP_CLOSES:
            bars(f"epoch {run.epoch + 1}/{run.epochs}", run.step, run.total_steps)

    return hook


def conclude(screen: Screen, folder: Any, record: Any, model: Any, *, report: bool) -> None:
    """Write what a training gave, weights before summary, and say it."""
    from sprig.core.store import REPORT, save_run
    from sprig.report import render_html

    folder.put_model(model)
    if report:
        folder.put_text(REPORT, render_html(record))
    save_run(folder, record)
    folder.finish()
    show(screen, folder, record)


def finished(screen: Screen, folder: Any) -> None:
    """A run that is complete already is shown, not made again."""
    from sprig.core.store import load_record

    screen.note(f"{folder.path} is complete already; nothing was done")
    show(screen, folder, load_record(folder))


def show(screen: Screen, folder: Any, record: Any) -> None:
    """The record as a table, or as JSON."""
    from sprig.report import compare_rows, render_table

    screen.say(render_table(record))
    screen.say(f"\nrun folder: {folder.path}")
    screen.give({**compare_rows([record])[0], "folder": folder.path, "log": record.log})
