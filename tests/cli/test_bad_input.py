"""Bad input: status 2, one line that says what was found, what was expected, what to do; no folder left."""

import json
import os
import pickle
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save_file

MODULE = """
import torch
from torch import nn

def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(512, 10),
    )

def wider():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 8, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(512, 10),
    )

class Stubborn(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(64, 10)

    def forward(self, x):
        if float(x.sum()) > 0:
            return self.inner(x.flatten(1))
        return -self.inner(x.flatten(1))

def stubborn():
    return Stubborn()

def sick():
    found = model()
    with torch.no_grad():
        found[2].weight[0, 0, 0, 0] = float("nan")
    return found

def empty(split):
    return []

def nan(split):
    x = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    x[3, 0, 1, 1] = float("nan")
    return [x]

def colour(split):
    return [torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))]

def grey(split):
    return [torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))]
"""

GOOD = {"--model": "user.py:model", "--data": "user.py:grey", "--macs": "0.5", "--out": "out"}


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the user's own file in it, as the current folder."""
    (tmp_path / "user.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def line(**changed: str | None) -> list[str]:
    """`sprig prune` with some options changed or (None) left out."""
    options = {**GOOD, **{"--" + k.replace("_", "-"): v for k, v in changed.items()}}
    return ["prune", *(part for k, v in options.items() if v is not None for part in (k, v))]


OPTIONS = {
    "budget of nothing": ({"macs": "0"}, "--macs is 0; expected a fraction"),
    "budget of 1.5": ({"macs": "1.5"}, "1.5: fractions lie in (0, 1]"),
    "negative budget": ({"macs": "-0.5"}, "--macs is -0.5; expected a fraction"),
    "budget that is no number": ({"macs": "half"}, "'half' is not a size"),
    "no budget": ({"macs": None}, "no budget given"),
    "budget below what is reachable": ({"macs": "0.0001"}, "below what is reachable"),
    "empty data": ({"data": "user.py:empty"}, "gave no sample"),
    "wrong channel count": ({"data": "user.py:colour"}, "channels"),
    "NaN inputs": ({"data": "user.py:nan"}, "NaN"),
    "NaN weights": ({"model": "user.py:sick"}, "2.weight"),
    "a model that cannot be exported": ({"model": "user.py:stubborn"}, "user.py:25"),
    "unknown model kind": ({"model": "zoo:resnet"}, "known are torchvision:NAME, timm:NAME"),
    "unknown torchvision model": ({"model": "torchvision:resnet19"}, "near it are resnet18"),
    "unknown reference network": ({"model": "sprig:resnet21"}, "resnet20"),
    "unknown function": ({"model": "user.py:modle"}, "has no 'modle'"),
    "unknown data": ({"data": "digit"}, "known are digits"),
    "unknown method": ({"method": "magic"}, "known are"),
    "unknown setting": ({"set": "swpas=3"}, "unknown key 'swpas'"),
    "setting that is none": ({"set": "swaps"}, "not of the form key=value"),
    "no images": ({"images": "0"}, "expected at least 1"),
    "a fold that is none": ({"fold": "2/2"}, "fold"),
    "no threads": ({"threads": "0"}, "--threads is 0"),
    "rounding to nothing": ({"round_to": "0"}, "round"),
    "missing weights": ({"weights": "none.safetensors"}, "there is no weights file"),
    "bad mean": ({"mean": "a,b"}, "is not a list of numbers"),
    "bad model options": ({"model_args": "width"}, "not of the form key=value"),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_bad_options(desk: Path, refused, case: str) -> None:
    changed, said = OPTIONS[case]
    assert said in refused(*line(**changed))
    assert sorted(p.name for p in desk.iterdir() if p.name != "__pycache__") == ["user.py"]


@pytest.mark.parametrize("method", [[], ["--method", "halo", "--keep", "0.5"]])
def test_training_on_data_of_another_shape(desk: Path, refused, method: list[str]) -> None:
    command = ["train", "--model", "sprig:lenet-300-100", "--data", "digits", "--epochs", "1"]
    said = refused(*command, *method, "--out", "out")
    assert "sprig:lenet-300-100 cannot take the samples of digits" in said
    assert "784" in said
    assert not (desk / "out").exists()


def wrong_shapes(path: Path) -> None:
    save_file({**good_state(), "0.weight": torch.zeros(8, 3, 3, 3)}, path)


def one_missing(path: Path) -> None:
    state = good_state()
    del state["2.bias"]
    save_file(state, path)


def one_too_many(path: Path) -> None:
    save_file({**good_state(), "9.weight": torch.zeros(1)}, path)


def not_finite(path: Path) -> None:
    save_file({**good_state(), "0.bias": torch.full((8,), float("nan"))}, path)


def truncated(path: Path) -> None:
    save_file(good_state(), path)
    path.write_bytes(path.read_bytes()[:-100])


def a_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"0.weight": [1.0]}))


def good_state() -> dict[str, torch.Tensor]:
    scope: dict = {}
    exec(MODULE, scope)
    return dict(scope["model"]().state_dict())


WEIGHTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "wrong shapes": (wrong_shapes, "0.weight"),
    "a missing tensor": (one_missing, "2.bias"),
    "an unexpected tensor": (one_too_many, "9.weight"),
    "NaN": (not_finite, "0.bias"),
    "a truncated file": (truncated, "truncated"),
    "a pickle": (a_pickle, "pickle"),
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_bad_weights(desk: Path, refused, case: str) -> None:
    make, said = WEIGHTS[case]
    make(desk / "w.safetensors")
    assert said in refused(*line(weights="w.safetensors"))
    assert not (desk / "out").exists()


def test_a_full_output_folder(desk: Path, refused) -> None:
    (desk / "out").mkdir()
    (desk / "out" / "mine.txt").write_text("mine")
    assert "out is not empty (it holds mine.txt)" in refused(*line())
    assert "holds no run to resume" in refused(*line(), "--resume")
    assert [p.name for p in (desk / "out").iterdir()] == ["mine.txt"]
    (desk / "file").write_text("")
    assert "file is a file" in refused(*line(out="file"))
    assert "cannot write to" in refused(*line(out="file/run"))


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_output_folder(desk: Path, refused) -> None:
    (desk / "closed").mkdir(mode=stat.S_IRUSR | stat.S_IXUSR)
    assert "cannot write to" in refused(*line(out="closed/run"))


def test_an_empty_folder_that_was_there_stays(desk: Path, refused) -> None:
    (desk / "out").mkdir()
    refused(*line(data="user.py:empty"))
    assert list((desk / "out").iterdir()) == []


# -- what is wrong with a run ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def pruned(sprig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of `sprig prune` on the user's own model and data."""
    desk = tmp_path_factory.mktemp("desk")
    (desk / "user.py").write_text(MODULE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(desk)
        result = sprig(*line(), "--threads", 1)
    assert result.exit_code == 0, result.output + repr(result.exception)
    return desk / "out"


def edited_plan(run: Path) -> None:
    text = (run / "plan.json").read_text()
    (run / "plan.json").write_text(text.replace('"seed": 0', '"seed": 1'))


def truncated_plan(run: Path) -> None:
    (run / "plan.json").write_text((run / "plan.json").read_text()[:-30])


def another_model(run: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    model = config["command"]["model"]
    model["model"] = model["model"].replace(":model", ":wider")
    (run / "config.json").write_text(json.dumps(config))


def pickled_weights(run: Path) -> None:
    torch.save(state_of(run), run / "model.safetensors")


def state_of(run: Path) -> dict[str, torch.Tensor]:
    """The weights, and not views of the file, which is about to be overwritten."""
    return load((run / "model.safetensors").read_bytes())


def misshaped_weights(run: Path) -> None:
    save_file({**state_of(run), "0.bias": torch.zeros(99)}, run / "model.safetensors")


def no_weights(run: Path) -> None:
    (run / "model.safetensors").unlink()


def garbled_certificate(run: Path) -> None:
    (run / "certificate.json").write_text('{"claims": [], "hashes": {}, "versions": {}}')


def unknown_key(run: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    config["command"]["model"]["colour"] = "red"
    (run / "config.json").write_text(json.dumps(config))


RUNS: dict[str, tuple[Callable[[Path], None], str]] = {
    "an edited plan": (edited_plan, "plan was edited"),
    "a truncated plan": (truncated_plan, "not valid JSON"),
    "a plan of another model": (another_model, "another model"),
    "a pickle offered as weights": (pickled_weights, "is a pickle"),
    "no weights": (no_weights, "model.safetensors"),
    "a certificate without a seed": (garbled_certificate, "'seed' is missing"),
    "an unknown key in the config": (unknown_key, "unknown key 'colour'"),
}


@pytest.mark.parametrize("case", RUNS)
def test_bad_runs(pruned: Path, tmp_path: Path, refused, case: str) -> None:
    damage, said = RUNS[case]
    run = tmp_path / "run"
    shutil.copytree(pruned, run)
    damage(run)
    assert said in refused("verify", run)


def test_weights_of_wrong_shapes(pruned: Path, tmp_path: Path, refused, sprig) -> None:
    run = tmp_path / "run"
    shutil.copytree(pruned, run)
    misshaped_weights(run)
    assert "0.bias has shape [99]" in refused("export", run, "--format", "pt2")
    assert sprig("verify", run).exit_code == 1  # they are not the weights that were certified


@pytest.mark.parametrize("verb", ["verify", "report", "export", "compare"])
def test_a_folder_that_is_no_run(tmp_path: Path, refused, verb: str) -> None:
    assert "expected a run folder" in refused(verb, tmp_path)
    assert "expected a run folder" in refused(verb, tmp_path / "none")


def test_a_run_that_claims_nothing(trained: Path, refused) -> None:
    assert "claims nothing" in refused("verify", trained)


def test_one_changed_byte_of_the_weights_is_found(pruned: Path, tmp_path: Path, sprig) -> None:
    whole = (pruned / "model.safetensors").read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    for at in (start, (start + len(whole)) // 2, len(whole) - 1, 20):  # the last: in the header
        run = tmp_path / f"run{at}"
        shutil.copytree(pruned, run)
        changed = bytearray(whole)
        changed[at] ^= 0x01
        (run / "model.safetensors").write_bytes(changed)
        result = sprig("verify", run)
        assert result.exit_code == 1, (at, result.output, result.exception)


def test_an_undamaged_run_holds(pruned: Path, sprig, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)  # from anywhere
    result = sprig("verify", pruned, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["passed"] is True
