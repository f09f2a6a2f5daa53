"""`sprig study`: the list, a quick study with its files, resuming, and what it refuses."""

import json
from pathlib import Path

from sprig.studies import STUDIES


def test_the_list(sprig, answer) -> None:
    shown = sprig("study")
    assert shown.exit_code == 0
    assert all(name in shown.stdout for name in STUDIES)
    assert [row["name"] for row in answer("study")["studies"]] == list(STUDIES)


def test_a_quick_study_writes_and_says_its_verdict(sprig, answer, refused, tmp_path: Path) -> None:
    out = tmp_path / "s"
    shown = sprig("study", "weak-submodular", "--quick", "--seeds", 2, "--out", out)
    assert shown.exit_code == 0, shown.output
    record = json.loads((out / "study.json").read_text())
    assert record["seeds"] == [0, 1]
    assert record["size"] == "quick"
    claim = record["conclusion"]["findings"][0]["claim"]
    assert claim in shown.stdout
    assert "claims hold" in shown.stdout
    assert "is not empty" in refused("study", "weak-submodular", "--quick", "--out", out)
    told = answer("study", "weak-submodular", "--quick", "--out", out, "--resume")
    assert told["record"]["conclusion"] == record["conclusion"]
    assert told["verdict"] in (out / "study.md").read_text()


def test_what_is_refused(refused) -> None:
    assert "unknown study 'rate'" in refused("study", "rate")
    assert "--resume continues the study in --out" in refused("study", "rates", "--resume")
    assert "--seeds is 0" in refused("study", "rates", "--seeds", 0)
