"""The terminal views: at home in 80 columns, with the record's numbers, nothing said by colour alone."""

import io
import math
from dataclasses import replace

import pytest
from rich.cells import cell_len
from rich.console import Console

from sprig.core.types import GroupRow, Measures
from sprig.report import compare_rows, compare_table, render_html, render_table
from sprig.report.table import meter


def printed(what, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(what)
    text = console.file.getvalue()
    assert max(cell_len(line) for line in text.splitlines()) <= width
    return text


@pytest.mark.parametrize("count", [1, 3, 60])
def test_fits_and_tells_the_numbers(record_of, count):
    record = record_of(count)
    text = printed(render_table(record))
    for wanted in (
        "4.109 G",
        "2.046 G",
        "49.8%",
        "2.01× fewer",
        "19.8 ms",
        "19.2 to 21.7",
        "97.1%",
        "−0.4 points",
    ):
        assert wanted in text
    assert "✓ All 3 claims hold." in text


def test_figures_on_the_calibration_inputs_are_said_to_be_so(record_of):
    record = record_of(3)
    seen = replace(record, config={**record.config, "judged_on": "the calibration data"})
    only = replace(seen, after=replace(seen.after, quality={"agreement": 1.0}))
    none = replace(seen, after=replace(seen.after, quality={}))
    held_out = replace(record, config={**record.config, "judged_on": "held-out data"})
    warning = "expect less on others"
    for one, said in (
        (seen, "accuracy on the calibration inputs"),
        (only, "100% of the calibration inputs"),
    ):
        text = " ".join(printed(render_table(one)).split())
        assert said in text
        assert warning in text
        assert warning in render_html(one)
    for other in (record, held_out, none):
        assert warning not in " ".join(printed(render_table(other)).split())
        assert warning not in render_html(other)


def test_every_group_appears_in_flow_order(record_of):
    record = record_of(60)
    text = printed(render_table(record, groups=None))
    places = [text.index(row.name + " ") for row in record.groups]
    assert places == sorted(places)
    for row in record.groups:
        line = next(li for li in text.splitlines() if li.startswith(row.name + " "))
        assert f"{len(row.kept)}/{row.size}" in line
        assert ("fixed" in line) == (row.reason is not None)


def test_many_groups_are_cut_to_those_with_most_macs(record_of):
    record = record_of(60)
    text = printed(render_table(record, groups=10))
    ranked = sorted(record.groups, key=lambda row: -row.macs_share)
    assert all(f"{row.name} " in text for row in ranked[:10])
    assert not any(f"{row.name} " in text for row in ranked[10:])
    assert "and 50 more groups" in text


def test_long_foreign_and_markup_names_fit(record_of):
    name = "[red]编码器[/red]." + "block." * 30 + "conv"
    record = record_of(4)
    groups = (
        replace(record.groups[0], name=name),
        GroupRow(name, 1024, tuple(range(1024)), "[b]why[/b] " * 20, 0.0),
    )
    text = printed(render_table(replace(record, title=name, groups=groups)))
    assert "[red]" in text
    assert "[b]why[/b]" in text


def test_failing_claim_is_told_in_words(record_of, certificate_of):
    text = printed(render_table(record_of(4, certificate=certificate_of(True))))
    assert "✗ 1 of 3 claims fails: budget met." in text
    assert "✗ fails" in text
    assert "300,000,001" in text
    assert "300,000,000" in text


def test_bare_record(record_of):
    bare = Measures(100, 50, 200)
    record = record_of(3, groups=(), certificate=None, curve=(), log=(), before=bare, after=bare)
    text = printed(render_table(record))
    assert "nothing was cut" in text
    assert "This run has no certificate." in text
    assert "unchanged" in text


def test_latency_slower_and_within_spread_is_said(record_of):
    record = record_of(3)
    old = {"1": {"median": 10.0, "low": 9.0, "high": 11.0}, "8": {"median": 10.0}}
    new = {"1": {"median": 9.5, "low": 9.0, "high": 10.5}, "8": {"median": 20.0}}
    text = printed(
        render_table(
            replace(
                record,
                before=replace(record.before, latency_ms=old),
                after=replace(record.after, latency_ms=new),
            )
        ),
        width=100,
    )
    assert "2.00× slower" in text
    assert "the spread" in text


def test_compare_fits_and_tells_runs_apart(record_of, certificate_of):
    one = record_of(4)
    two = record_of(
        4,
        title="the same network, another budget, and a very long name",
        after=replace(one.after, macs=1_027_366_144, quality={"accuracy": 0.9012}),
        certificate=certificate_of(True),
    )
    three = record_of(4, certificate=None)
    text = printed(compare_table((one, two, three)))
    assert "dense" in text
    for wanted in ("2.046 G", "1.027 G", "25.0%", "97.1%", "90.1%", "✓ 3", "✗ 1/3", "none"):
        assert wanted in text
    wide = printed(compare_table((one, two), width=120), width=120)
    assert "19.8 ms" in wide
    assert "474 ms" in wide
    assert "0.0413" in wide
    assert "19.8 ms" not in text  # did not fit
    assert "…" not in printed(compare_table((one,), width=120), width=120)
    assert "KL" in wide


def test_compare_without_common_dense_network(record_of):
    one = record_of(3)
    other = replace(one, before=replace(one.before, macs=9_000_000_000))
    assert "dense " not in printed(compare_table((one, other))).replace("of dense", "")
    assert printed(compare_table(())).strip().startswith("run")


def test_compare_rows_have_every_digit(record_of):
    record = record_of(3)
    row = compare_rows((record,))[0]
    assert row["after"]["macs"] == record.after.macs
    assert row["after"]["latency_ms"]["1"]["median"] == 19.81
    assert row["plan"] == record.plan.hash
    assert row["certificate"] == "holds"


def test_meter_grows_with_its_part():
    widths = [meter(i / 50, 10).count("█") for i in range(51)]
    assert widths == sorted(widths)
    assert (widths[0], widths[-1]) == (0, 10)
    assert all(len(meter(i / 50, 10)) == 10 for i in range(51))


def test_not_finite_numbers_are_words(record_of):
    record = record_of(3)
    after = replace(record.after, quality={"accuracy": math.nan, "kl": math.inf})
    text = printed(render_table(replace(record, after=after)))
    assert "not finite" in text
    assert " nan" not in text
    assert " inf" not in text
