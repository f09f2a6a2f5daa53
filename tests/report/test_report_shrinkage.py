"""The section of a run that shrank while it trained: every number of the log, nothing for other runs."""

from dataclasses import replace

from sprig.report import facts, render_html
from sprig.report.shrinkage import section

LOG = (
    {"kind": "layer", "name": "fc<1>", "kept": 0.03147, "weights": 235_200, "rows": 300, "empty": 217},
    *({"kind": "law", "size": 10.0**-i, "coefficient": 0.1 * 10.0 ** (-i / 3), "formula": 0.1 * 10.0 ** (-i / 3)}
      for i in range(5)),
    *({"kind": "sweep", "kept": k, "quality": q} for k, q in ((1.0, 0.88), (0.1, 0.875), (0.01, 0.42))),
    {"kind": "sweep", "kept": 0.05, "quality": 0.8777, "this": True},
    *({"kind": "spectrum", "state": s, "name": "fc<1>", "width": 300, "rank": r, "shares": [0.9, 0.09, 0.01]}
      for s, r in (("at the start", 171), ("trained", 23), ("cut", 19))),
    {"kind": "storage", "name": "fc<1>", "form": "csr16",
     "bytes": {"dense": 940_800, "bitmap": 64_680, "csr16": 54_124}, "microseconds": {"dense": 17.25, "csr": 23.5}},
)  # fmt: skip


def test_a_run_without_a_penalty_has_no_such_section(record_of):
    record = record_of(3)
    assert section(record.log) is None
    assert 'id="shrinkage"' not in render_html(record)


def test_every_number_of_the_log_is_on_the_page(record_of):
    record = replace(record_of(3), log=LOG)
    page = render_html(record)
    assert 'href="#shrinkage"' in page
    for text in (
        "3.15%",
        "217 of 300",
        "171 of 300",
        "23 of 300",
        "19 of 300",
        "csr16",
        "54.1",
        "17.2",
        "23.5",
    ):
        assert text in page, text
    assert "this cut: 87.8%" in page  # this cut, in words, for whoever does not see the drawing
    assert "fc&lt;1" in page
    assert "fc<1>" not in page
    assert 'id="log"' not in page  # drawn here, not once more as a log
    spoilt = [{**row, "kept": 0.5} if row["kind"] == "layer" else row for row in LOG]
    assert "3.15%" not in render_html(replace(record, log=tuple(spoilt)))


def test_dots_and_the_formula_are_drawn(record_of):
    found = section(LOG)
    law, cuts = found["panels"]
    assert str(law.figure).count("L") >= 5 + 4  # five dots, and four pieces of the formula's line
    assert 'class="curve dots"' in law.figure
    assert cuts.figure.count('class="mark diamond"') == 1
    assert cuts.figure.count('class="mark circle"') == 3


def test_rows_that_say_little_are_left_out():
    assert section(({"kind": "law", "size": 0.0, "coefficient": 1.0},))["panels"] == ()
    bare = section(({"kind": "layer", "name": "a", "kept": float("nan")},))
    assert bare["layers"][0]["rows"] == "–"
    many = tuple(
        {"kind": "spectrum", "state": "cut", "name": f"l{i}", "width": 4, "rank": 2, "shares": [0.9, 0.1]}
        for i in range(30)
    )  # fmt: skip
    found = section(many)
    assert len(found["spectra"]) == 24
    assert found["more"] == 6
    assert len(found["ranks"]) == 30


def test_what_masks_left_is_said_in_the_sentence_and_the_table(record_of):
    record = record_of(3)
    assert facts.survivors(record) is None
    whole = replace(record, log=LOG, after=replace(record.before))
    assert facts.survivors(whole) == (7402, 235_200)
    assert "96.9% of its weights set to zero" in facts.story(whole)
    (line,) = [row for row in facts.lines(whole) if row.key == "not_zero"]
    assert (line.before.text, line.after.text) == ("235.2 k", "7,402")
    assert line.means == "31.78× fewer"
    kept = [{**row, "kept": 1.0} if row["kind"] == "layer" else row for row in LOG]
    assert "nothing was cut" in facts.story(replace(whole, log=tuple(kept)))
