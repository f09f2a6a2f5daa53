"""Show a run in the terminal and write its HTML report again from its files."""

from pathlib import Path
from typing import Annotated

import typer

from sprig.cli.console import Screen
from sprig.cli.options import JsonOption


def run(
    folder: Annotated[str, typer.Argument(metavar="RUN", help="Folder of a finished run.")],
    out: JsonOption,
    *,
    html: Annotated[
        str | None,
        typer.Option("--html", help="Where to write it; report.html in the run when not given."),
    ] = None,
) -> None:
    """Render the records of a run."""
    from sprig.core.errors import StoreError
    from sprig.core.store import REPORT, RunFolder, load_record
    from sprig.report import compare_rows, render_html, render_table

    screen = Screen(json=out.json)
    record = load_record(folder)
    target = Path(html) if html is not None else Path(folder) / REPORT
    if target.is_dir() or not target.parent.is_dir():
        raise StoreError(f"cannot write {target}: expected a file name in a folder that exists")
    RunFolder(target.parent).put_text(target.name, render_html(record))
    screen.say(render_table(record))
    screen.say(f"\nreport: {target}")
    screen.give({**compare_rows([record])[0], "report": target})
