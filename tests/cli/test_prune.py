"""From a trained run to a pruned one, and on: verify, finetune, export, compare, prune again."""

import json
from pathlib import Path

import pytest

from sprig.cli.demo import free_name
from sprig.core.store import load_record, read_tensors, sha256_file

DATA = ("--data", "digits", "--images", "96", "--threads", "1")


@pytest.fixture(scope="module")
def pruned(trained: Path, sprig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pruned") / "half"
    result = sprig(
        "prune", "--model", trained, *DATA, "--macs", "0.6", "--params", "40k", "--out", out
    )
    assert result.exit_code == 0, result.output + repr(result.exception)
    assert max(map(len, result.stdout.splitlines())) <= 80 or str(out) in result.stdout
    return out


def test_a_pruned_run_is_whole_and_keeps_both_budgets(pruned: Path, trained: Path) -> None:
    record = load_record(pruned)
    assert record.before.macs * 0.6 >= record.after.macs > 0
    assert record.after.params <= 40_000
    assert record.certificate is not None
    assert record.certificate.passed
    assert record.title == "dense"
    command = record.config["command"]
    assert command["model"]["model"] == str(trained)
    assert command["budget"]["macs"] == 0.6
    assert not (pruned / "state").exists()
    assert "<html" in (pruned / "report.html").read_text()


def test_verify_holds_and_says_so(pruned: Path, answer) -> None:
    found = answer("verify", pruned)
    assert found["passed"]
    assert all(claim["passed"] for claim in found["certificate"]["claims"])


def test_finetune_then_export(pruned: Path, tmp_path: Path, answer, refused) -> None:
    out = tmp_path / "tuned"
    found = answer("finetune", pruned, "--epochs", 1, "--lr", 1e-3, "--out", out, "--threads", 1)
    assert found["after"]["macs"] == load_record(pruned).after.macs
    before, after = (read_tensors(f / "model.safetensors") for f in (pruned, out))
    assert {n: t.shape for n, t in before.items()} == {n: t.shape for n, t in after.items()}
    assert any(not before[n].equal(after[n]) for n in before)
    assert answer("export", out, "--format", "pt2")["agrees"]
    assert "claims nothing" in refused("verify", out)
    rows = answer("compare", pruned, out)["runs"]
    assert [row["certificate"] for row in rows] == ["holds", "none"]


def test_a_pruned_run_can_be_pruned_again(pruned: Path, tmp_path: Path, answer) -> None:
    out = tmp_path / "quarter"
    found = answer("prune", "--model", pruned, *DATA, "--macs", "0.7", "--out", out)
    assert found["before"]["macs"] == load_record(pruned).after.macs
    assert answer("verify", out)["passed"]


def test_no_report_leaves_none(trained: Path, tmp_path: Path, answer, sprig) -> None:
    out = tmp_path / "bare"
    call = ("prune", "--model", trained, *DATA, "--macs", "0.5", "--method", "magnitude")
    assert sprig(*call, "--no-report", "--out", out).stderr == ""  # the weights are the run's own
    assert not (out / "report.html").exists()
    page = answer("report", out)["report"]
    assert Path(page).is_file()


def test_random_weights_are_said_to_be_random(tmp_path: Path, sprig) -> None:
    call = ("prune", "--model", "sprig:lenet-300-100", "--model-args", "image_size=8", *DATA)
    result = sprig(*call, "--macs", "0.5", "--method", "random", "--out", tmp_path / "bare")
    assert result.exit_code == 0, result.output + repr(result.exception)
    assert "random weights" in result.stderr


def test_prune_twice_gives_the_same_bits(
    pruned: Path, trained: Path, tmp_path: Path, answer
) -> None:
    out = tmp_path / "again"
    answer("prune", "--model", trained, *DATA, "--macs", "0.6", "--params", "40k", "--out", out)
    for name in ("model.safetensors", "plan.json", "path.safetensors", "config.json"):
        assert sha256_file(out / name) == sha256_file(pruned / name), name


def test_methods_are_listed(answer, sprig, refused) -> None:
    from sprig.methods import METHODS
    from sprig.methods.penalties.shelf import PENALTIES

    found = answer("methods")["methods"]
    assert [row["name"] for row in found if row["verb"] == "prune"] == list(METHODS)
    assert [row["name"] for row in found if row["verb"] == "train"] == list(PENALTIES)
    one = answer("methods", "refit")["methods"]
    assert [row["name"] for row in one] == ["refit"]
    assert one[0]["settings"]
    table = sprig("methods")
    assert max(map(len, table.stdout.splitlines())) <= 80
    assert "known are" in refused("methods", "magic")


def test_the_demo_takes_the_next_free_name(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert free_name() == Path("sprig-demo")
    Path("sprig-demo").mkdir()
    assert free_name() == Path("sprig-demo")
    Path("sprig-demo/x").write_text("")
    Path("sprig-demo-2").write_text("")
    assert free_name() == Path("sprig-demo-3")


@pytest.mark.flow
def test_demo_tells_the_story_and_verifies(tmp_path: Path, command) -> None:
    out = tmp_path / "demo"
    done = command("demo", "--out", out, "--threads", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    record = load_record(out)
    assert record.after.macs <= 0.5 * record.before.macs
    lost = record.before.quality["accuracy"] - record.after.quality["accuracy"]
    assert record.before.quality["accuracy"] > 0.97
    assert lost <= 0.01
    moved = tmp_path / "elsewhere"
    out.rename(moved)
    checked = command("verify", moved, "--json")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert json.loads(checked.stdout)["passed"]


def test_the_whole_network_loss_says_what_its_cache_saved(
    trained: Path, sprig, tmp_path: Path
) -> None:
    few = (
        "--set",
        "candidates=4",
        "--set",
        "prescreen=2",
        "--set",
        "samples=64",
        "--set",
        "batch=32",
    )
    result = sprig(
        "prune", "--model", trained, "--data", "digits", "--images", "64", "--threads", "1",
        "--macs", "0.7", "--method", "loss", *few, "--set", "objective=imitation", "--set", "check=32",
        "--out", tmp_path / "run",
    )  # fmt: skip
    assert result.exit_code == 0, result.output + repr(result.exception)
    told = " ".join(result.stdout.split())
    found = load_record(tmp_path / "run").config["search"]
    assert 0 < found["layers_run"] < found["layers_exhaustive"]
    assert f"The search ran {int(found['layers_run']):,} layer evaluations" in told
    assert f"{found['layers_saved']:.0%} saved" in told
