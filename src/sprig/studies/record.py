"""What a study is made of and what it gives: plain records, from figures to words.

A study is a list of cells, each a small piece of work that gives figures, and a conclusion that is computed from the
figures of all cells and from nothing else.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Figures = Mapping[str, Any]  # numbers, strings, lists and mappings of them, as JSON knows them
Cell = Callable[[Path], Figures]  # given a folder for what it wants to keep between interruptions


@dataclass(frozen=True)
class Table:
    """A table whose cells are text already; the exact figures are in cells.jsonl."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


@dataclass(frozen=True)
class Curve:
    """One line of a plot."""

    name: str
    points: tuple[tuple[float, float], ...]
    bars: tuple[tuple[float, float, float], ...] = ()  # x, from, to: the spread over seeds


@dataclass(frozen=True)
class Plot:
    """Lines over two axes."""

    title: str
    x: str
    y: str
    curves: tuple[Curve, ...]
    log_x: bool = False
    log_y: bool = False


@dataclass(frozen=True)
class Dots:
    """One row of dots per arm, a dot per seed."""

    title: str
    x: str
    rows: tuple[tuple[str, tuple[float, ...]], ...]
    log: bool = False


@dataclass(frozen=True)
class Finding:
    """A claim, whether these figures bear it out, and the figures that say so."""

    claim: str
    holds: bool | None  # None: these figures cannot tell
    says: str

    @property
    def word(self) -> str:
        """
        >>> Finding("a", None, "b").word
        'cannot tell'
        """
        return {True: "holds", False: "does not hold", None: "cannot tell"}[self.holds]


@dataclass(frozen=True)
class Conclusion:
    """What the figures of all cells come to."""

    tables: tuple[Table, ...]
    plots: tuple[Plot | Dots, ...]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Study:
    """A question that a few minutes of computing can put to the test."""

    name: str
    question: str
    sources: str
    full: Any  # settings, a frozen dataclass with `seeds`
    quick: Any  # the same, for tests and a first look
    cells: Callable[[Any], Mapping[str, Cell]]
    conclude: Callable[[Any, Mapping[str, Figures]], Conclusion]
    budget: Callable[[Any], str]  # what each arm was granted, in words


@dataclass(frozen=True)
class Record:
    """A study that was carried out."""

    study: str
    question: str
    sources: str
    size: str  # full, quick or own
    settings: Mapping[str, Any]
    seeds: tuple[int, ...]
    budget: str
    seconds: float  # of processor time, all cells together
    threads: int
    versions: Mapping[str, str]
    conclusion: Conclusion
    figures: Mapping[str, Figures] = field(default_factory=dict)  # of each cell

    @property
    def verdict(self) -> str:
        """The findings in one sentence."""
        held = [f.holds for f in self.conclusion.findings]
        parts = [f"{held.count(True)} of {len(held)} claims hold in these figures"]
        if False in held:
            parts.append(f"{held.count(False)} {'does' if held.count(False) == 1 else 'do'} not")
        if None in held:
            parts.append(f"{held.count(None)} cannot be told from them")
        return ", ".join(parts) + "."
