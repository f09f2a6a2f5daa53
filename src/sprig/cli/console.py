"""What a verb says: tables and one JSON object on stdout, progress on stderr, nothing twice."""

import io
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from sprig.core.errors import SprigError

QUIET = 2.0  # seconds of work that need no bar


class Screen:
    """Where a verb writes. With `json` only `give` writes to stdout, and only one JSON object. `mute`: nothing at all,
    for the processes of a run that are not its first."""

    def __init__(self, *, json: bool, mute: bool = False) -> None:
        self.json, self.mute = json, mute
        self.out = Console(highlight=False)
        self.err = Console(stderr=True, highlight=False)

    def say(self, what: RenderableType = "", *, end: str = "\n") -> None:
        """Text or a table for people."""
        if not self.json and not self.mute:
            self.out.print(what, end=end, soft_wrap=isinstance(what, str), markup=False)

    def give(self, value: Any) -> None:
        """The result for machines."""
        if self.json and not self.mute:
            from sprig.core.records import dumps

            print(dumps(value))

    def note(self, text: str) -> None:
        """A remark beside the result, on stderr."""
        if not self.mute:
            self.err.print(text, soft_wrap=True, markup=False)

    @contextmanager
    def bars(self) -> Iterator["Bars"]:
        """Progress bars on stderr; silent when that is not a terminal.

        What libraries print there meanwhile comes afterwards, or not at all when the work ended in an
        error of ours, which says it in one line.
        """
        bars = Bars(Console(file=sys.stderr, highlight=False), mute=self.mute)
        noise = io.StringIO()
        try:
            with redirect_stderr(noise), calm("torch"):
                yield bars
        except SprigError:
            noise = io.StringIO()
            raise
        finally:
            bars.close()
            if not self.mute:
                sys.stderr.write(noise.getvalue())


@contextmanager
def calm(name: str) -> Iterator[None]:
    """Only errors from the loggers of one library; their levels come back."""
    own = [
        log
        for key, log in logging.root.manager.loggerDict.items()
        if isinstance(log, logging.Logger) and (key == name or key.startswith(f"{name}."))
    ]
    levels = [log.level for log in own]
    for log in own:
        log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for log, level in zip(own, levels, strict=True):
            log.setLevel(level)


class Bars:
    """Called with a stage's name, what is done and what there is to do; draws after two seconds."""

    def __init__(self, console: Console, *, mute: bool = False) -> None:
        self.live = console.is_terminal and not mute
        self.began = time.monotonic()
        self.tasks: dict[str, Any] = {}
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )

    def __call__(self, stage: str, done: float, total: float | None = None) -> None:
        if not self.live:
            return
        if stage not in self.tasks:
            self.tasks[stage] = self.progress.add_task(stage, total=total)
        self.progress.update(self.tasks[stage], completed=done, total=total)
        if time.monotonic() - self.began > QUIET:
            self.progress.start()

    def close(self) -> None:
        """Take the bars away."""
        if self.live:
            self.progress.stop()
