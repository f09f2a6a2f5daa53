"""Train the model of a run further, with or without the dense network as its teacher, into a new run."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from sprig.cli.console import Screen
from sprig.cli.options import CommonOptions, OutOptions
from sprig.training.config import FinetuneConfig


def run(
    source: Annotated[str, typer.Argument(metavar="RUN", help="Folder of a finished run.")],
    config: FinetuneConfig,
    out: OutOptions,
    common: CommonOptions,
    *,
    data: Annotated[
        str | None, typer.Option("--data", help="Other data than the run's own.", metavar="SPEC")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", help="Inputs per batch.")
    ] = None,
    teacher: Annotated[bool, typer.Option(help="Learn from the dense network too.")] = True,
) -> None:
    """Fine-tune and save; the last epoch is what counts."""
    from sprig.cli.quality import labelled, measure
    from sprig.cli.session import (
        anchored,
        described,
        example_of,
        load_data,
        load_held_out,
        prepare,
        reopen,
        undoing,
    )
    from sprig.cli.shrinkage import MASKS, held_masks
    from sprig.cli.train import conclude, finished, steps
    from sprig.core.store import PLAN, RunFolder, load_record
    from sprig.core.tracing import trace
    from sprig.training import finetune
    from sprig.workflow.recheck import SHAPES

    screen = Screen(json=common.json)
    opened = reopen(source)
    old = load_record(opened.folder)
    folder = RunFolder.create(out.out, resume=out.resume)
    if folder.finished:
        finished(screen, folder)
        return
    with undoing(folder), screen.bars() as bars:
        prepare(common)
        chosen = replace(
            opened.data,
            data=data or opened.data.data,
            batch_size=batch_size or opened.data.batch_size,
            images=None if data else opened.data.images,
            fold=None if data else opened.data.fold,
        )
        command = {
            "verb": "finetune",
            "from": str(Path(source).resolve()),
            "model": asdict(opened.model),
            "data": asdict(anchored(chosen)),
            "eval": asdict(opened.evaluation),
            "seed": common.seed,
            "threads": common.threads,
            "teacher": teacher,
            "settings": asdict(config),
        }
        small = opened.result()
        settings = described(command, small.built)
        folder.begin(settings)
        dense = opened.start().model if opened.cut and not opened.from_scratch else None
        if data is None and chosen.data.partition(":")[0] != "imagefolder":
            chosen = replace(chosen, images=None, fold=None)
        batches = load_data(chosen, small, split="train", seed=common.seed, views=1)
        held_out = load_held_out(chosen, opened.evaluation, small, seed=common.seed)
        graph = trace(small.model, example_of(batches), modules=opened.modules)
        trained = finetune(
            small.model,
            batches,
            config=config,
            teacher=dense if teacher else None,
            evaluation=held_out if held_out is not None and labelled(held_out) else None,
            hooks=[steps(bars), *held_masks(opened.folder)],
            folder=folder / "state",
            resume=True,
        )
        record = replace(
            old,
            title=f"{old.title}, fine-tuned",
            config=settings,
            certificate=None,  # its claims speak of the weights before
            after=replace(  # training changes no shape: the times are those of the run before
                measure(trained.model, dense, graph, held_out), latency_ms=old.after.latency_ms
            ),
            log=(*old.log, *({"kind": "epoch", **row} for row in trained.history)),
        )
        if opened.cut:  # what `load` needs to build the small network again
            for name in (PLAN, SHAPES):
                folder.put_text(name, opened.folder.get_text(name))
        if opened.folder.has(MASKS):
            folder.put_tensors(MASKS, opened.folder.get_tensors(MASKS))
    conclude(screen, folder, record, trained.model, report=out.report)
