"""`--modules` on the command line: a network that branches on values, from inspect to finetune."""

from pathlib import Path

import pytest

from sprig.core.store import load_record
from sprig.testing import branches

SPEC = f"{branches.__file__}:branching"
MODEL = ("--model", SPEC, "--model-args", "channels=1")
DATA = ("--data", "digits", "--images", "96")


@pytest.fixture(scope="module")
def cut(sprig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("modules") / "run"
    result = sprig(
        "prune", *MODEL, *DATA, "--modules", "stem", "--modules", "head", "--macs", "0.7",
        "--out", out, "--threads", "1", "--set", "ratio_pairs=4",
    )  # fmt: skip
    assert result.exit_code == 0, result.output + repr(result.exception)
    return out


def test_without_modules_the_error_names_them(refused) -> None:
    said = refused("inspect", *MODEL, "--input", "1,8,8")
    assert "branches.py" in said and "--modules stem --modules gate --modules stages.0" in said


def test_inspect_lists_the_parts(sprig, answer) -> None:
    found = answer("inspect", *MODEL, "--input", "1,8,8", "--modules", "auto")
    assert found["modules"] == ["stem", "stages.0", "head"]
    assert {g["name"] for g in found["groups"] if not g["reason"]} == {
        "stem.0", "stages.0.0", "head.1"
    }  # fmt: skip
    shown = sprig("inspect", *MODEL, "--input", "1,8,8", "--modules", "stem").stdout
    assert "Only submodules were traced: stem." in shown and "outside of these" in shown


def test_the_run_verifies_and_trains_on(cut: Path, answer, tmp_path: Path) -> None:
    record = load_record(cut)
    assert record.after.macs <= 0.7 * record.before.macs
    assert record.config["command"]["modules"] == ["stem", "head"]
    found = answer("verify", cut)
    assert found["passed"] and len(found["certificate"]["claims"]) > 8
    tuned = answer("finetune", cut, "--epochs", 1, "--out", tmp_path / "on", "--threads", 1)
    assert tuned["after"]["params"] == record.after.params


def test_another_model_is_bad_input(cut: Path, tmp_path: Path, refused) -> None:
    import json
    import shutil

    other = tmp_path / "other"
    shutil.copytree(cut, other)
    config = json.loads((other / "config.json").read_text())
    config["command"]["model"]["model"] = "sprig:lenet-5"
    config["command"]["model"]["model_args"] = None
    (other / "config.json").write_text(json.dumps(config))
    assert "no submodule 'stem'" in refused("verify", other)
