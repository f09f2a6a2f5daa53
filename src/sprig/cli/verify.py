"""Recompute every claim of a run folder from its files; exit status 1 when one does not hold."""

from typing import TYPE_CHECKING, Annotated

import typer

from sprig.cli.console import Screen
from sprig.cli.options import JsonOption

if TYPE_CHECKING:
    from rich.table import Table
    from torch import nn

    from sprig.cli.session import Reopened
    from sprig.core.types import Certificate
    from sprig.data import Batches


def run(
    folder: Annotated[str, typer.Argument(metavar="RUN", help="Folder of a finished run.")],
    out: JsonOption,
    *,
    threads: Annotated[int | None, typer.Option("--threads", help="CPU threads.")] = None,
) -> None:
    """Build the dense model and the data again, cut it by the plan, check everything."""
    from sprig.cli.options import CommonOptions
    from sprig.cli.session import load_data, load_held_out, prepare, reopen
    from sprig.core.errors import StoreError
    from sprig.core.store import CERTIFICATE, MODEL, refuse_pickle
    from sprig.workflow import verify

    screen = Screen(json=out.json)
    opened = reopen(folder)
    if not opened.folder.has(CERTIFICATE):
        raise StoreError(
            f"{folder} has no {CERTIFICATE}: this run claims nothing that could be verified; "
            "name a run made by `sprig prune`"
        )
    refuse_pickle(
        opened.folder / MODEL
    )  # anything else that is wrong with it is a claim that fails
    prepare(CommonOptions(seed=opened.seed, threads=threads or opened.config.get("threads")))
    start = opened.start()
    data = load_data(opened.data, start, split="calibration", seed=opened.seed)
    held_out = load_held_out(opened.data, opened.evaluation, start, seed=opened.seed)
    with screen.bars() as bars:
        certificate = verify(
            opened.folder.path, start.model, data=data, eval_data=held_out, progress=bars
        )
        if any(claim.name == "dense" and not claim.passed for claim in certificate.claims):
            _refuse_another_model(opened, start.model, data)
    screen.say(claims_table(certificate))
    failed = [claim.name for claim in certificate.claims if not claim.passed]
    total = len(certificate.claims)
    if failed:
        screen.say(f"\n{len(failed)} of {total} claims FAIL: {', '.join(failed)}")
    else:
        screen.say(f"\nall {total} claims hold")
    screen.give({"passed": not failed, "failed": failed, "certificate": certificate})
    if failed:
        raise typer.Exit(1)


def _refuse_another_model(opened: "Reopened", model: "nn.Module", data: "Batches") -> None:
    """Other weights are a claim that fails; a plan that does not even fit the model is bad input."""
    from sprig.cli.session import example_of
    from sprig.core.plan import Plan
    from sprig.core.store import PLAN
    from sprig.workflow.byhand import graph_of

    plan = Plan.from_json(opened.folder.get_text(PLAN))
    plan.check(graph_of(model, example_of(data), plan, modules=opened.modules))


def claims_table(certificate: "Certificate") -> "Table":
    """Every claim with its number, what it is held to, and how it was checked."""
    from rich.table import Table
    from rich.text import Text

    from sprig.report.numbers import pair

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("", no_wrap=True)
    table.add_column("claim", overflow="fold")
    table.add_column("number", justify="right", no_wrap=True)
    table.add_column("held to", justify="right", no_wrap=True)
    for claim in certificate.claims:
        sign = Text("holds", "green") if claim.passed else Text("FAILS", "bold red")
        table.add_row(sign, Text(claim.statement), *pair(claim.value, claim.tolerance))
    return table
