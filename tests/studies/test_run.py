"""Carrying out: what is written, what is refused, and that an interrupted study ends with the same figures."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from sprig.core.errors import InputError, StoreError
from sprig.core.records import loads, read
from sprig.studies import STUDIES, find, study
from sprig.studies.page import html, markdown
from sprig.studies.record import Cell, Conclusion, Curve, Dots, Finding, Plot, Record, Study, Table
from sprig.studies.run import CELLS, SETTINGS, WORK, carry_out


@dataclass(frozen=True)
class Sizes:
    seeds: tuple[int, ...] = (0, 1)
    scale: float = 1.0


def toy(calls: list[str], stop: str | None = None) -> Study:
    """Three cells that note their calls; the cell `stop` is interrupted."""

    def work(name: str, value: float, folder: Path) -> dict[str, Any]:
        calls.append(name)
        assert folder.is_dir()
        if name == stop:
            raise KeyboardInterrupt
        return {"value": value, "odd": float("inf"), "pair": (1, 2)}

    def cells(sizes: Sizes) -> Mapping[str, Cell]:
        return {f"c{s}": partial(work, f"c{s}", sizes.scale * (s + 1)) for s in (*sizes.seeds, 7)}

    def conclude(sizes: Sizes, found: Mapping[str, Any]) -> Conclusion:
        total = sum(f["value"] for f in found.values())
        points = tuple((float(i + 1), f["value"]) for i, f in enumerate(found.values()))
        bars = tuple((x, y / 2, y * 2) for x, y in points)
        holds = (True, False, None)
        return Conclusion(
            (Table("t < u", ("name | x", "value"), (("sum", f"{total:g}"),), "a note"),),
            (
                Plot(
                    "lines",
                    "n",
                    "loss",
                    (Curve("a <b>", points, bars), Curve("b", points[:1])),
                    True,
                    True,
                ),
                Dots("dots", "value", (("one", (1.0, 3.0)), ("two", (2.0,)))),
            ),
            tuple(Finding(f"claim {h}", h, f"total {total:g}") for h in holds),
            ("a remark",),
        )

    return Study(
        "toy",
        "Why <so>?",
        "nobody 2001",
        Sizes(),
        Sizes(seeds=(0,)),
        cells,
        conclude,
        lambda s: "none.",
    )


def test_what_is_written(home: Path) -> None:
    record = carry_out(toy([]), Sizes(), folder=home)
    assert (
        record.verdict
        == "1 of 3 claims hold in these figures, 1 does not, 1 cannot be told from them."
    )
    assert record.figures["c7"] == {"value": 8.0, "odd": float("inf"), "pair": [1, 2]}
    assert {p.name for p in home.iterdir()} == {
        SETTINGS, CELLS, "study.json", "study.md", "study.html", "plot-1.svg", "plot-2.svg",
    }  # fmt: skip
    assert read(Record, loads((home / "study.json").read_text(), what="")) == record
    text = (home / "study.md").read_text()
    assert text == markdown(record)
    assert "| sum | 11 |" in text
    assert "name ∣ x" in text
    assert "![lines](plot-1.svg)" in text
    for words in (
        "Seeds: 0, 1.",
        "Size: full.",
        "Budget: none.",
        "scale 1",
        "`sprig study toy`",
        "a remark",
    ):
        assert words in text
    page = (home / "study.html").read_text()
    assert page == html(record)
    assert "Why &lt;so&gt;?" in page
    assert "<so>" not in page
    assert page.count("<svg") == 2
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "").replace("http-equiv", "")
    for name, marks in (("plot-1.svg", 2), ("plot-2.svg", 2)):
        root = ElementTree.fromstring((home / name).read_text())
        assert root.tag.endswith("svg")
        assert sum(e.tag.endswith("path") for e in root.iter()) >= marks


def test_sizes_are_named(home: Path) -> None:
    toys = toy([])
    assert carry_out(toys, toys.quick).size == "quick"
    own = carry_out(toys, Sizes(scale=2.0))
    assert own.size == "own"
    assert "(own settings)" in markdown(own)


@pytest.mark.parametrize("stop", ["c0", "c1", "c7"])
def test_an_interrupted_study_goes_on_and_says_the_same(home: Path, stop: str) -> None:
    whole = carry_out(toy([]), Sizes())
    with pytest.raises(KeyboardInterrupt):
        carry_out(toy([], stop), Sizes(), folder=home)
    with open(home / CELLS, "ab") as file:
        file.write(b'{"cell": "c7", "figu')  # a line torn by a power cut
    calls: list[str] = []
    record = carry_out(toy(calls), Sizes(), folder=home, resume=True)
    order = ["c0", "c1", "c7"]
    assert calls == order[order.index(stop) :]
    assert record.conclusion == whole.conclusion
    assert record.figures == whole.figures
    assert not (home / WORK).exists()
    again: list[str] = []
    assert carry_out(toy(again), Sizes(), folder=home, resume=True).conclusion == whole.conclusion
    assert again == []
    assert [json.loads(line)["cell"] for line in (home / CELLS).read_text().splitlines()] == order


def test_what_is_refused(home: Path, tmp_path: Path) -> None:
    toys = toy([])
    with pytest.raises(InputError, match=r"settings of toy are a Sizes, found dict"):
        carry_out(toys, {})
    for seeds in ((), (1, 1)):
        with pytest.raises(InputError, match="needs seeds, each once"):
            carry_out(toys, Sizes(seeds=seeds))
    carry_out(toys, Sizes(), folder=home)
    with pytest.raises(StoreError, match="is not empty"):
        carry_out(toys, Sizes(), folder=home)
    with pytest.raises(InputError, match=r"scale 1.0 instead of 2.0; resume with the same"):
        carry_out(toys, Sizes(scale=2.0), folder=home, resume=True)
    with pytest.raises(InputError, match="holds the study toy with other settings than other has"):
        carry_out(replace(toys, name="other"), Sizes(), folder=home, resume=True)
    (home / SETTINGS).unlink()
    with pytest.raises(StoreError, match="holds no study to resume"):
        carry_out(toys, Sizes(), folder=home, resume=True)
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="is a file"):
        carry_out(toys, Sizes(), folder=tmp_path / "file")


def test_the_door() -> None:
    with pytest.raises(InputError, match=r"unknown study 'rate'; known are rates"):
        find("rate")
    with pytest.raises(InputError, match="quick or settings of your own"):
        study("rates", quick=True, settings=find("rates").full)
    for name in STUDIES:
        found = find(name)
        assert found.name == name
        assert len(found.full.seeds) >= 2
        assert found.quick != found.full


def test_marks_keep_to_the_drawing() -> None:
    """Values that a logarithmic axis cannot show are left out, not drawn somewhere."""
    from sprig.studies.figure import draw

    curve = Curve("a", ((1.0, 1.0), (2.0, 0.0), (4.0, float("nan")), (8.0, 10.0)))
    drawn = ElementTree.fromstring(draw(Plot("p", "x", "y", (curve,), True, True)))
    lines = [
        e.get("d") or "" for e in drawn.iter() if e.tag.endswith("path") and e.get("class") == "c"
    ]
    assert sum(d.count("M") for d in lines) == 3  # two stretches and the legend's stroke
    empty = ElementTree.fromstring(draw(Dots("p", "x", (("a", (0.0,)),), log=True)))
    assert not [e for e in empty.iter() if e.tag.endswith("path")]
