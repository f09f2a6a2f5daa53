"""The command `sprig`: a table of verbs, each loaded only when it is called, and one way to fail.

Exit status: 0 done; 1 a claim failed; 2 bad input (one line on stderr); 130 interrupted.
"""

import importlib
import os
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from sprig.cli.options import flatten
from sprig.cli.torchrun import processes, who
from sprig.core.errors import InputError

VERBS: Mapping[str, str] = MappingProxyType(
    {
        "demo": "The whole story on handwritten digits, in about a minute.",
        "inspect": "What can be pruned, what cannot and why, and what it costs.",
        "prune": "Cut a trained model to a budget, without retraining, into a run folder.",
        "train": "Train a model into a run folder: a baseline to prune, or shrinking on the way.",
        "finetune": "Train a pruned model further, with or without the dense one as teacher.",
        "export": "Write the model of a run as ONNX or .pt2 and check that it agrees.",
        "verify": "Recompute every claim of a run folder from its files.",
        "report": "Show a run in the terminal and write its HTML report.",
        "compare": "Several runs side by side.",
        "methods": "The methods that `prune` and `train` know.",
        "study": "Put a claim of a paper to the test: table, plot, verdict.",
    }
)
SHARED = ("prune",)  # verbs that several processes may run together
HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

INTERRUPTED = 130  # what the option parser makes of Ctrl-C


class Front(TyperGroup):
    """Knows the names of the verbs; imports a verb when it is called."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        # For the list of verbs: name and help, without importing the verb (and with it torch).
        return TyperCommand(cmd_name, help=VERBS[cmd_name]) if cmd_name in VERBS else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, found, rest = super().resolve_command(ctx, args)
        if name not in SHARED and processes() > 1:
            raise InputError(
                f"sprig {name} runs in one process, torchrun started {processes()}; start it without torchrun "
                f"({', '.join(SHARED)} can be shared out)"
            )
        return name, (None if found is None else load(str(name))), rest

    def main(self, *given: Any, **options: Any) -> Any:
        """Run, and turn what went wrong into one line and a status."""
        options = {**options, "standalone_mode": False}
        options["prog_name"] = options.get("prog_name") or "sprig"
        try:
            code = super().main(*given, **options)
        except Exception as error:
            line = _one_line(error)
            if line is None:
                raise
            if not getattr(error, "told", False):  # another process says it
                typer.echo(f"error: {who()}{line}", err=True)
            code = 2
        if code == INTERRUPTED:
            typer.echo("interrupted; --resume continues from the last finished stage", err=True)
        sys.exit(code if isinstance(code, int) else 0)


def load(verb: str) -> Any:
    """The real command of a verb: its module's `run`, with its options as flags."""
    module = importlib.import_module(f"sprig.cli.{verb}")
    single = typer.Typer(add_completion=False, rich_markup_mode=None, context_settings=HELP)
    single.command(verb, help=module.__doc__)(flatten(module.run))
    return typer.main.get_command(single)


app = typer.Typer(
    cls=Front,
    add_completion=False,
    invoke_without_command=True,
    rich_markup_mode=None,
    context_settings=HELP,
)


@app.callback()
def _front(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.")
    ] = False,
) -> None:
    """Find a good small network inside a trained large one."""
    if version:
        typer.echo(f"sprig {_version()}")
        raise typer.Exit
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


def main() -> None:
    """What the installed command calls."""
    try:
        app()
    except BrokenPipeError:  # the reader of our output left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("torch-sprig")
    except PackageNotFoundError:
        return "(not installed)"


def _one_line(error: Exception) -> str | None:
    """The message of an error that is the caller's; None for a defect of ours."""
    from sprig.core.errors import SprigError

    if isinstance(error, SprigError):
        return " ".join(str(error).split())
    message = getattr(error, "format_message", None)  # a usage error of the option parser
    if callable(message):
        return " ".join(str(message()).split()) + " (see --help)"
    return None
