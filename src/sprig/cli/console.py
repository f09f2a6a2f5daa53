"""What a verb says: tables and one JSON object on stdout, progress on stderr, nothing twice."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

QUIET = 2.0  # seconds of work that need no bar


class Screen:
    """Where a verb writes. With `json` only `give` writes to stdout, and only one JSON object."""

    def __init__(self, *, json: bool) -> None:
        self.json = json
        self.out = Console(highlight=False)
        self.err = Console(stderr=True, highlight=False)

    def say(self, what: RenderableType = "", *, end: str = "\n") -> None:
        """Text or a table for people."""
        if not self.json:
            self.out.print(what, end=end, soft_wrap=isinstance(what, str), markup=False)

    def give(self, value: Any) -> None:
        """The result for machines."""
        if self.json:
            from sprig.core.records import dumps

            print(dumps(value))

    def note(self, text: str) -> None:
        """A remark beside the result, on stderr."""
        self.err.print(text, soft_wrap=True, markup=False)

    @contextmanager
    def bars(self) -> Iterator["Bars"]:
        """Progress bars on stderr; silent when that is not a terminal."""
        bars = Bars(self.err)
        try:
            yield bars
        finally:
            bars.close()


class Bars:
    """Called with a stage's name, what is done and what there is to do; draws after two seconds."""

    def __init__(self, console: Console) -> None:
        self.live = sys.stderr.isatty()
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
