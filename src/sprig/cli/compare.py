"""Several runs side by side: what each costs, how well it does, whether its certificate holds."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sprig.cli.console import Screen
from sprig.cli.options import CommonOptions

if TYPE_CHECKING:
    from sprig.core.types import RunRecord


def run(
    folders: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Folders of finished runs.")
    ],
    common: CommonOptions,
    *,
    data: Annotated[
        str | None,
        typer.Option(
            "--data", help="Measure all of them anew on the test part of this.", metavar="SPEC"
        ),
    ] = None,
    fold: Annotated[
        str | None, typer.Option("--fold", help="Part i of n of those images.", metavar="I/N")
    ] = None,
) -> None:
    """Print one table with a row per run."""
    from sprig.cli.session import prepare
    from sprig.core.store import load_record
    from sprig.report import compare_rows, compare_table

    screen = Screen(json=common.json)
    prepare(common)
    records = [load_record(folder) for folder in folders]
    if data is not None:
        with screen.bars() as bars:
            for number, folder in enumerate(folders):
                bars("measure", number, len(folders))
                records[number] = measured(records[number], folder, data, fold)
    named = [
        replace(record, title=Path(folder).resolve().name)
        for record, folder in zip(records, folders, strict=True)
    ]
    screen.say(compare_table(named, width=screen.out.width))
    screen.give(
        {
            "runs": [
                {**row, "folder": f} for row, f in zip(compare_rows(named), folders, strict=True)
            ]
        }
    )


def measured(record: "RunRecord", folder: str, data: str, fold: str | None) -> "RunRecord":
    """The record with its quality measured on `data` in place of what the run measured."""
    from sprig.cli.options import DataOptions
    from sprig.cli.session import load_data, reopen
    from sprig.workflow import quality

    run = reopen(folder)
    dense, result = run.dense(), run.result()
    options = DataOptions(data=data, fold=fold, batch_size=run.data.batch_size)
    batches = load_data(options, dense, split="test", seed=run.seed)
    before = quality(dense.model, None, batches)
    after = quality(result.model, dense.model, batches)
    return replace(
        record,
        before=replace(record.before, quality=before),
        after=replace(record.after, quality=after),
    )
