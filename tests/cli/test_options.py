"""Options records become flags and come back as the same records."""

from dataclasses import dataclass
from typing import Annotated, Literal

import pytest
import typer
from typer.testing import CliRunner

from sprig.cli.options import (
    CommonOptions,
    DataOptions,
    described,
    flatten,
    numbers,
    option,
    pairs,
    settings,
    size,
)
from sprig.core.errors import InputError
from sprig.methods import METHODS
from sprig.training import FinetuneConfig, TrainConfig


@dataclass(frozen=True)
class Knobs:
    count: int = 3  # how many
    share: float | None = None
    flag: bool = False
    other: bool = True
    kind: Literal["a", "b"] = "a"
    steps: tuple[int, ...] = (1, 2)
    seed: int = 7


@dataclass(frozen=True)
class Needed:
    name: str = option(help="A name.")
    seed: int = option(0, "Seed.")


@dataclass(frozen=True)
class Untold:
    ridge: float = 0.0


def call(*flags: str) -> tuple[object, int, str]:
    """The records that a command made of the flags."""
    got: list[object] = []

    def run(
        needed: Needed,
        knobs: Knobs,
        *,
        extra: Annotated[list[str] | None, typer.Option("--extra")] = None,
    ) -> None:
        got.extend([needed, knobs, extra])

    app = typer.Typer()
    app.command()(flatten(run))
    result = CliRunner().invoke(app, list(flags))
    return got, result.exit_code, result.output + str(result.exception or "")


def test_defaults_are_those_of_the_records() -> None:
    got, code, output = call("--name", "x")
    assert code == 0, output
    # one flag --seed feeds both records; the first one's default counts
    assert got[:2] == [Needed("x"), Knobs(seed=0)]
    assert not got[2]


def test_flags_reach_the_records() -> None:
    got, code, output = call(
        *("--name", "x", "--count", "5", "--share", "0.5", "--flag", "--no-other", "--kind", "b"),
        *("--steps", "3,4,5", "--seed", "9", "--extra", "p=1", "--extra", "q=2"),
    )
    assert code == 0, output
    assert got == [Needed("x", 9), Knobs(5, 0.5, True, False, "b", (3, 4, 5), 9), ["p=1", "q=2"]]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--kind", "c"), "expected one of a, b, found 'c'"),
        (("--steps", "x,y"), "--steps"),
        (("--count", "many"), "--count"),
    ],
)
def test_bad_flags_are_refused(flags: tuple[str, ...], said: str) -> None:
    _, code, output = call("--name", "x", *flags)
    assert code != 0
    assert said in output


def test_a_missing_name_is_refused() -> None:
    assert call()[1] == 2


def test_help_comes_from_the_field() -> None:
    help = {entry.name: text for entry, text in described(Knobs)}
    assert help["count"] == "how many"
    assert {entry.name: text for entry, text in described(Needed)}["name"] == "A name."
    inherited = {entry.name: text for entry, text in described(TrainConfig)}
    assert inherited["epochs"] == "passes over the data"
    assert all(text for entry, text in described(DataOptions))


def test_help_comes_from_the_docstring_of_a_config() -> None:
    help = {entry.name: text for entry, text in described(METHODS["refit"].config)}
    assert help["ridge"].startswith("pull towards")
    assert help["rows_per_column"] == help["least_rows"]  # one entry speaks of both
    assert "ridge" not in help["trials"]
    assert {entry.name: text for entry, text in described(Untold)} == {"ridge": ""}


def test_settings_read_by_the_annotations() -> None:
    assert settings(Knobs, ["count=4", "steps=[7]", "share=None", "flag=True"], what="it") == Knobs(
        4, None, True, steps=(7,)
    )
    assert settings(FinetuneConfig, ["weight-decay=0"], what="it").weight_decay == 0.0
    for texts, said in [
        (["coutn=4"], "unknown key 'coutn'; known are count, share"),
        (["count=x"], "it.count: expected int, found 'x'"),
        (["count"], "not of the form key=value"),
    ]:
        with pytest.raises(InputError, match=said):
            settings(Knobs, texts, what="it")


def test_sizes() -> None:
    assert [size(t, what="macs") for t in ("0.5", "1", "300M", "2.5e6", "1.5g", "10MB", "2Ki")] == [
        0.5, 1.0, 3e8, 2.5e6, 1.5e9, 1e7, 2048.0,
    ]  # fmt: skip
    assert size("-1", what="macs") == -1.0  # refused where the budget is made
    for text in ("", "half", "50%", "3 0", "nan"):
        with pytest.raises(InputError, match="is not a size"):
            size(text, what="macs")


def test_lists_and_pairs() -> None:
    assert numbers(None, what="mean") is None
    with pytest.raises(InputError, match="is not a list of numbers"):
        numbers("a,b", what="mean")
    assert pairs(None, what="model-args") == {}
    with pytest.raises(InputError, match="not of the form key=value"):
        pairs("width", what="model-args")


def test_common_options_are_off() -> None:
    assert CommonOptions() == CommonOptions(seed=0, threads=None, json=False)
