"""Put a claim of a paper to the test: a table, a plot and a verdict computed from the figures."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from sprig.cli.console import Screen
from sprig.cli.options import CommonOptions

if TYPE_CHECKING:
    from sprig.studies.record import Record, Table


def run(
    name: Annotated[
        str | None, typer.Argument(help="Which study; a list of them when not given.")
    ] = None,
    *,
    common: CommonOptions,
    quick: Annotated[
        bool, typer.Option("--quick", help="The small size: seconds, for a first look.")
    ] = False,
    seeds: Annotated[
        int | None, typer.Option("--seeds", help="How many seeds, from --seed on.", metavar="N")
    ] = None,
    out: Annotated[
        str | None,
        typer.Option("--out", help="Folder for JSON, Markdown, HTML and plots.", metavar="DIR"),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue an interrupted study in --out.")
    ] = False,
) -> None:
    """Carry a study out, or list them.

    Exit status 0 whatever the verdict: a claim that does not hold is a result.
    """
    from sprig.cli.session import prepare
    from sprig.core.errors import InputError
    from sprig.studies import STUDIES, find, study

    screen = Screen(json=common.json)
    if name is None:
        listed(screen)
        screen.give({"studies": [{"name": n, "about": about} for n, (_, about) in STUDIES.items()]})
        return
    if resume and out is None:
        raise InputError("--resume continues the study in --out DIR; name the folder")
    if seeds is not None and seeds < 1:
        raise InputError(f"--seeds is {seeds}, expected at least 1")
    prepare(common)
    own = find(name).quick.seeds if quick else find(name).full.seeds
    count = len(own) if seeds is None else seeds
    chosen = tuple(range(common.seed, common.seed + count))
    with screen.bars() as bars:
        record = study(name, quick=quick, seeds=chosen, folder=out, resume=resume, progress=bars)
    told(screen, record)
    if out is not None:
        screen.say(f"\n{out}/study.html has the plots, {out}/study.json all figures.")
    screen.give({"record": record, "verdict": record.verdict})


def listed(screen: Screen) -> None:
    """What there is."""
    from rich.table import Table as Grid

    from sprig.studies import STUDIES

    grid = Grid(box=None, pad_edge=False, header_style="dim")
    grid.add_column("study", no_wrap=True)
    grid.add_column("about")
    for name, (_, about) in STUDIES.items():
        grid.add_row(name, about)
    screen.say(grid)


def told(screen: Screen, record: "Record") -> None:
    """The verdict, the findings, the tables and how it was made."""
    from sprig.studies.page import SIGNS, facts

    screen.say(f"{record.question}\n\n{record.verdict}\n")
    for finding in record.conclusion.findings:
        screen.say(f"{SIGNS[finding.holds]} {finding.claim} ({finding.word}): {finding.says}")
    for table in record.conclusion.tables:
        screen.say(f"\n{table.title}")
        screen.say(grid_of(table))
        if table.note:
            screen.say(table.note)
    screen.say()
    for line in (*record.conclusion.notes, *facts(record)):
        screen.say(line)


def grid_of(table: "Table") -> Any:
    """A table for the terminal."""
    from rich.table import Table as Grid

    grid = Grid(box=None, pad_edge=False, header_style="dim")
    for at, column in enumerate(table.columns):
        grid.add_column(column, justify="left" if at == 0 else "right")
    for row in table.rows:
        grid.add_row(*row)
    return grid
