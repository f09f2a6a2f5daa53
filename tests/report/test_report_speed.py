"""Time per layer: every figure of the record stands on the page, and nothing where nothing was timed."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from sprig.core.types import RunRecord
from sprig.report import render_html, render_table
from sprig.report.speed import speed, story

MEASURED = {
    "dense_ms": 20.25,
    "small_ms": 10.125,
    "ratio": 0.5,
    "low": 0.48,
    "high": 0.53,
    "pairs": 11,
}
LATENCY: dict[str, Any] = {
    "setting": {"batch": 4, "threads": 1, "dtype": "float32", "backend": "eager", "device": "Abacus <3>"},
    "budget": {"latency": 0.51},
    "predicted_ms": 11.0625,
    "measured": MEASURED,
    "note": "each call alone",
    "trials": [
        {**MEASURED, "predicted_ms": 12.5, "small_ms": 13.75, "ratio": 0.68},
        {**MEASURED, "predicted_ms": 11.0625},
    ],
    "layers": [
        {"name": "a.conv", "kind": "conv", "calls": 1, "widths": [3, 64, 3, 32], "dense_ms": 8.0,
         "predicted_ms": 4.0, "measured_ms": 3.0},
        {"name": "relu", "kind": "", "calls": 7, "widths": [], "dense_ms": 1.5, "predicted_ms": 0.75,
         "measured_ms": None},
    ],
}  # fmt: skip


@pytest.fixture
def timed(record_of: Callable[..., RunRecord]) -> RunRecord:
    record = record_of(5)
    return replace(record, config={**record.config, "latency": LATENCY})


def test_the_page_shows_every_figure(timed: RunRecord) -> None:
    page = render_html(timed)
    section = page[page.index('<section id="speed">') :]
    section = section[: section.index("</section>")]
    exact = re.findall(r'<data value="([^"]*)"', section)
    assert exact == [
        "12.5", "13.75", "0.68", "11.0625", "10.125", "0.5",  # the plans
        "8.0", "4.0", "3.0", "0.75", "1.5", "0.75",  # the layers
    ]  # fmt: skip
    assert "3→64: 3→32" in section and "relu, 7 calls" in section
    assert "Abacus &lt;3&gt;" in section and 'href="#speed"' in page
    assert 'width="100.00"' in section and 'width="37.50"' in section
    assert page.count("each call alone") == 1, "not a second time among the settings"


def test_the_sentence_says_what_was_asked_and_found(timed: RunRecord) -> None:
    found = speed(timed)
    assert found is not None
    assert found.story == (
        "Time per call: 10.1 ms of 20.2 ms (50.0%), budget 51.0%, predicted 11.1 ms "
        "(batch 4, 1 thread, float32, eager, Abacus <3>); 2 plans were timed end to end; "
        "medians over 11 pairs in turn."
    )
    both = story({**LATENCY, "budget": {"latency": 0.5, "latency_ms": 8.0}, "trials": []})
    assert "budget 50.0% and 8 ms" in both and "plans" not in both


def test_the_terminal_has_it_in_one_line(timed: RunRecord) -> None:
    console = Console(width=300)
    with console.capture() as seen:
        console.print(render_table(timed))
    assert speed(timed).story in seen.get()  # type: ignore[union-attr]


def test_without_figures_there_is_no_section(record_of: Callable[..., RunRecord]) -> None:
    record = record_of(5)
    for latency in (None, {}, {"measured": None}):
        plain = replace(record, config={**record.config, "latency": latency})
        assert speed(plain) is None
        assert 'id="speed"' not in render_html(plain)


def test_figures_that_are_missing_or_not_finite(timed: RunRecord) -> None:
    nan = float("nan")
    odd = {**LATENCY, "measured": {"small_ms": nan}, "setting": {}, "predicted_ms": None,
           "layers": [{"name": "x"}, {"name": "y", "dense_ms": nan, "predicted_ms": 1.0}]}  # fmt: skip
    page = render_html(replace(timed, config={"latency": odd}))
    assert "nan" not in re.sub(r"<style.*?</style>|<script.*?</script>", "", page, flags=re.DOTALL)
    assert "not finite" in page
