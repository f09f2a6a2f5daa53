"""The methods that `sprig prune --method` and `sprig train --method` know, with their settings."""

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
    from sprig.methods.penalties.shelf import PENALTIES

    screen = Screen(json=out.json)
    known = [*METHODS, *PENALTIES]
    if name is not None and name not in known:
        raise InputError(f"unknown method {name!r}; known are {', '.join(known)}")
    rows: list[dict[str, Any]] = []
    for key in known if name is None else [name]:
        cuts = key in METHODS
        method: Any = METHODS[key] if cuts else PENALTIES[key]
        knobs = [
            {"name": f.name, "default": plain(f.default), "help": help}
            for f, help in described(method.config)
            if not f.metadata.get("runtime")
        ]
        rows.append(
            {
                "name": key,
                "verb": "prune" if cuts else "train",
                "summary": method.summary,
                "reference": method.reference,
                "labels": method.labels if cuts else True,
                "ends": "a smaller network" if cuts else method.ends,
                "settings": knobs,
            }
        )
    if name is None:
        for verb, last in (("prune", "labels"), ("train", "ends in")):
            table = Table(box=None, pad_edge=False, header_style="dim")
            table.add_column(f"{verb} --method", no_wrap=True)
            table.add_column("what it does")
            table.add_column(last, no_wrap=verb == "prune")
            for row in rows:
                if row["verb"] == verb:
                    labels = "needs" if row["labels"] else "no"
                    table.add_row(
                        row["name"], row["summary"], labels if verb == "prune" else row["ends"]
                    )
            screen.say(table)
            screen.say()
    else:
        row = rows[0]
        screen.say(f"{row['name']}: {row['summary']}")
        screen.say(f"source: {row['reference']}")
        screen.say(f"labels: {'needs them' if row['labels'] else 'not used'}")
        screen.say(f"used by: sprig {row['verb']} --method {row['name']}; ends in {row['ends']}")
        table = Table(box=None, pad_edge=False, header_style="dim")
        for head in ("setting", "default", ""):
            table.add_column(head, no_wrap=head != "")
        for knob in row["settings"]:
            default = knob["default"]
            shown = f"{default:g}" if isinstance(default, float) else str(default)
            table.add_row(knob["name"], shown, knob["help"])
        screen.say(table)
    screen.give({"methods": rows})
