"""Verbs that need no pruning: train, finetune, export, report, compare, inspect."""

import json
import shutil
from pathlib import Path

import pytest

from sprig.cli import export
from sprig.core.store import load_record, read_tensors, sha256_file

TINY = ["--model", "sprig:resnet20", "--model-args", "width=4"]
SOME = ["--data", "digits", "--images", "128"]


def test_train_writes_a_whole_run(trained: Path) -> None:
    names = ["config.json", "metrics.jsonl", "model.safetensors", "report.html"]
    assert sorted(p.name for p in trained.iterdir()) == names
    record = load_record(trained)
    assert record.config["command"]["verb"] == "train"
    assert [row["epoch"] for row in record.log] == [1, 2]
    assert record.log[-1]["accuracy"] == record.after.quality["accuracy"]
    assert read_tensors(trained / "model.safetensors")["conv1.weight"].shape == (4, 1, 3, 3)


def test_the_same_seed_gives_the_same_bits(sprig, trained: Path, tmp_path: Path) -> None:
    sprig("train", *TINY, *SOME, "--epochs", 2, "--out", tmp_path / "a", "--threads", 1)
    sprig(
        "train", *TINY, *SOME, "--epochs", 2, "--out", tmp_path / "b", "--threads", 1, "--seed", 1
    )
    first, again, other = (
        sha256_file(f / "model.safetensors") for f in (trained, tmp_path / "a", tmp_path / "b")
    )
    assert first == again != other


def test_a_finished_run_is_shown_and_not_made_again(sprig, refused, trained: Path) -> None:
    before = {p.name: p.stat().st_mtime_ns for p in trained.iterdir()}
    call = ("train", *TINY, *SOME, "--epochs", 2, "--out", trained, "--threads", 1)
    result = sprig(*call, "--resume")
    assert result.exit_code == 0
    assert "complete already" in result.stderr
    assert {p.name: p.stat().st_mtime_ns for p in trained.iterdir()} == before
    assert "is not empty" in refused(*call)


def test_finetune_continues_from_a_run(answer, trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "tuned"
    result = answer("finetune", trained, "--epochs", 1, "--lr", 1e-3, "--out", out, "--threads", 1)
    assert [row["epoch"] for row in result["log"]] == [1, 2, 1]
    assert load_record(out).config["command"]["from"] == str(trained)
    moved = read_tensors(out / "model.safetensors")["conv1.weight"]
    start = read_tensors(trained / "model.safetensors")["conv1.weight"]
    assert 0 < float((moved - start).abs().max()) < 0.1


@pytest.mark.parametrize("format", ["onnx", "pt2"])
def test_export_agrees(answer, trained: Path, tmp_path: Path, format: str) -> None:
    target = tmp_path / f"m.{format}"
    found = answer("export", trained, "--format", format, "--out", target)
    assert found["agrees"]
    assert found["dynamic_batch"]
    assert found["difference"] <= 1e-4
    assert target.stat().st_size == found["bytes"]


def test_export_that_disagrees_exits_1(sprig, trained: Path, tmp_path: Path, monkeypatch) -> None:
    def wrong(path: Path, probe: tuple) -> list:
        return [1.01 * t for t in export.read_pt2(path, probe)]

    monkeypatch.setitem(export.READERS, "pt2", wrong)
    result = sprig("export", trained, "--format", "pt2", "--out", tmp_path / "m.pt2", "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert not found["agrees"]
    assert found["difference"] == pytest.approx(0.01, rel=1e-3)


def test_export_refuses(refused, trained: Path, tmp_path: Path) -> None:
    assert "known are onnx, pt2" in refused("export", trained, "--format", "tflite")
    target = tmp_path / "no" / "m.onnx"
    assert "does not exist" in refused("export", trained, "--out", target)


def test_report_and_compare(sprig, answer, refused, trained: Path, tmp_path: Path) -> None:
    page = tmp_path / "r.html"
    found = answer("report", trained, "--html", page)
    assert found["report"] == str(page)
    assert "<html" in page.read_text()
    assert "cannot write" in refused("report", trained, "--html", tmp_path / "no" / "r.html")
    rows = answer("compare", trained, trained)["runs"]
    assert rows[0] == rows[1]
    assert rows[0]["after"]["quality"]["accuracy"] == load_record(trained).after.quality["accuracy"]
    again = answer("compare", trained, "--data", "digits", "--fold", "0/2")["runs"][0]
    assert again["after"]["quality"]["agreement"] == 1.0
    table = sprig("compare", trained, trained)
    assert table.exit_code == 0
    assert max(map(len, table.stdout.splitlines())) <= 80


def test_inspect_counts(sprig, answer, refused, trained: Path) -> None:
    found = answer("inspect", "--model", trained)
    assert found["cost"]["params"] == sum(
        t.numel()
        for n, t in read_tensors(trained / "model.safetensors").items()
        if not any(part in n for part in ("running", "num_batches"))
    )
    assert [g["reason"] for g in found["groups"] if g["name"] == "fc"] != [None]
    by_shape = answer("inspect", *TINY, "--input", "3,8,8")
    assert by_shape["groups"][0]["units"] == 4
    table = sprig("inspect", *TINY, "--data", "digits")
    assert table.exit_code == 0
    assert "What cannot be pruned, and why" in table.stdout
    assert "give --input" in refused("inspect", *TINY)
    assert "is not a shape" in refused("inspect", *TINY, "--input", "3,x")


def test_a_run_is_read_from_its_folder_alone(
    answer, refused, trained: Path, tmp_path: Path, monkeypatch
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(trained, moved)
    monkeypatch.chdir(tmp_path)
    assert answer("export", moved, "--format", "pt2")["agrees"]
    (moved / "model.safetensors").unlink()
    assert "the run is unfinished" in refused("export", moved, "--format", "pt2")
    (moved / "config.json").write_text("{}")
    assert "was not written by the command line" in refused("export", moved)
