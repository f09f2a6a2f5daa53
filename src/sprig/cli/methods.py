"""The methods that `sprig prune --method` knows, with their settings."""

from typing import Annotated, Any

import typer

from sprig.cli.console import Screen
from sprig.cli.options import JsonOption


def run(
    name: Annotated[str | None, typer.Argument(help="One method; all when not given.")] = None,
    *,
    out: JsonOption,
) -> None:
    """Print the table of methods, or the card of one."""
    from rich.table import Table

    from sprig.cli.options import described
    from sprig.core.errors import InputError
    from sprig.core.records import plain
    from sprig.methods import METHODS

    screen = Screen(json=out.json)
    if name is not None and name not in METHODS:
        raise InputError(f"unknown method {name!r}; known are {', '.join(METHODS)}")
    chosen = {name: METHODS[name]} if name is not None else dict(METHODS)
    rows: list[dict[str, Any]] = []
    for key, method in chosen.items():
        knobs = [
            {"name": f.name, "default": plain(f.default), "help": help}
            for f, help in described(method.config)
        ]
        rows.append(
            {
                "name": key,
                "summary": method.summary,
                "reference": method.reference,
                "labels": method.labels,
                "settings": knobs,
            }
        )
    if name is None:
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column("method", no_wrap=True)
        table.add_column("what it does")
        table.add_column("labels", no_wrap=True)
        for row in rows:
            table.add_row(row["name"], row["summary"], "needs" if row["labels"] else "no")
        screen.say(table)
    else:
        row = rows[0]
        screen.say(f"{row['name']}: {row['summary']}")
        screen.say(f"source: {row['reference']}")
        screen.say(f"labels: {'needs them' if row['labels'] else 'not used'}")
        table = Table(box=None, pad_edge=False, header_style="dim")
        for head in ("setting", "default", ""):
            table.add_column(head, no_wrap=head != "")
        for knob in row["settings"]:
            default = knob["default"]
            shown = f"{default:g}" if isinstance(default, float) else str(default)
            table.add_row(knob["name"], shown, knob["help"])
        screen.say(table)
    screen.give({"methods": rows})
