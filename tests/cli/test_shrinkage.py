"""`sprig train --method`: masks or a smaller network, from the command line to the run folder and back."""

from pathlib import Path

import pytest
import torch

from sprig.cli.session import undoing
from sprig.core.compact import load_compact
from sprig.core.errors import InputError
from sprig.core.folder import RunFolder
from sprig.core.store import load_record, read_tensors, sha256_file, write_tensors

TINY = ["--model", "sprig:resnet20", "--model-args", "width=4"]
SOME = ["--data", "digits", "--images", "128", "--epochs", 2, "--threads", 1]


def read_compact(out: Path) -> dict[str, torch.Tensor]:
    return load_compact(out / "compact.safetensors")


def test_halo_ends_in_masks_and_finetuning_keeps_them(answer, tmp_path: Path) -> None:
    out = tmp_path / "halo"
    found = answer(
        "train", *TINY, *SOME, "--method", "halo", "--set", "xi=1e-3", "--set", "psi=1e-3",
        "--keep", 0.3, "--no-last", "--ramp", 1, "--out", out,
    )  # fmt: skip
    epochs = [row for row in found["log"] if row["kind"] == "epoch"]
    assert {"zeros", "tiny", "penalty", "coefficient_median"} <= set(epochs[-1])
    assert found["log"][0]["coefficient_lowest"] < 1  # the ramp is over after the first epoch
    masks = read_tensors(out / "masks.safetensors")
    weights = read_tensors(out / "model.safetensors")
    assert "fc.weight" not in masks
    kept = sum(int(m.sum()) for m in masks.values()) / sum(m.numel() for m in masks.values())
    assert kept == pytest.approx(0.3, abs=1e-3)
    assert all(torch.equal(weights[n] != 0, m.bool()) for n, m in masks.items())
    assert read_compact(out)["conv1.weight"].equal(weights["conv1.weight"])
    kinds = {row["kind"] for row in found["log"]}
    assert {"layer", "law", "sweep", "spectrum", "storage"} <= kinds
    this = next(r for r in found["log"] if r["kind"] == "sweep" and r.get("this"))
    assert this["kept"] == pytest.approx(0.3, abs=1e-3)
    page = (out / "report.html").read_text()
    assert "What survives in each layer" in page
    assert "Storage and speed of the zeros" in page
    record = load_record(out)
    assert record.plan is None
    assert record.before.params == record.after.params
    assert record.config["command"]["shrinkage"]["method"] == "halo"
    tuned = tmp_path / "tuned"
    answer("finetune", out, "--epochs", 1, "--out", tuned, "--threads", 1)
    after = read_tensors(tuned / "model.safetensors")
    assert not torch.equal(after["conv1.weight"], weights["conv1.weight"])
    assert all(bool((after[n][~m.bool()] == 0).all()) for n, m in masks.items())


def test_group_lasso_ends_in_a_smaller_network_that_can_be_used(
    answer, sprig, tmp_path: Path
) -> None:
    out = tmp_path / "group"
    call = ("train", *TINY, *SOME, "--method", "group-lasso", "--macs", 0.5)
    answer(*call, "--out", out)
    record = load_record(out)
    assert record.after.macs <= 0.5 * record.before.macs
    assert record.plan.method == "group-lasso"
    assert record.certificate.passed
    claims = {c.name for c in record.certificate.claims}
    assert {
        "masked-equals-shrunk-float64",
        "recount-macs",
        "budget-macs",
        "layer-errors-held-out",
    } <= claims
    again = sprig("verify", out, "--threads", 1)
    assert again.exit_code == 0, again.output
    assert "claims hold" in again.output
    trained = read_tensors(out / "trained.safetensors")
    trained["conv1.weight"][0, 0, 0, 0] += 1e-3
    write_tensors(out / "trained.safetensors", trained)
    spoilt = sprig("verify", out, "--threads", 1)
    assert spoilt.exit_code == 1
    assert "dense network" in spoilt.output
    shown = answer("inspect", "--model", out)
    assert shown["cost"]["params"] == record.after.params
    again = tmp_path / "again"
    answer(*call, "--out", again)
    assert sha256_file(out / "model.safetensors") == sha256_file(again / "model.safetensors")
    tuned = tmp_path / "tuned"
    answer("finetune", out, "--epochs", 1, "--out", tuned, "--threads", 1)
    assert load_record(tuned).after.params == record.after.params


def test_units_that_zeros_emptied_leave(answer, sprig, refused, tmp_path: Path) -> None:
    out = tmp_path / "empty"
    mlp = (
        "train",
        "--model",
        "sprig:lenet-300-100",
        "--model-args",
        "image_size=8",
        "--image-size",
        8,
        *SOME,
    )
    call = (*mlp, "--method", "halo", "--set", "xi=1e-2", "--set", "psi=1e-2", "--keep", 0.01)
    answer(*call, "--remove-empty", "--out", out)
    record = load_record(out)
    assert record.after.macs < record.before.macs
    masks = read_tensors(out / "masks.safetensors")
    weights = read_tensors(out / "model.safetensors")
    assert all(torch.equal(weights[n] != 0, m.bool()) for n, m in masks.items())
    assert "same-function" in {c.name for c in record.certificate.claims}
    rows = {r["name"]: r for r in record.log if r["kind"] == "layer"}
    wide = read_tensors(out / "trained.safetensors")
    assert all(r["weights"] == wide[n].numel() for n, r in rows.items())
    alive = {n: int(m.sum()) for n, m in masks.items()}
    assert all(rows[n]["kept"] * wide[n].numel() == pytest.approx(alive[n]) for n in masks)
    left = masks["fc1.weight"].shape[0]
    assert rows["fc1.weight"]["rows"] - rows["fc1.weight"]["empty"] <= left < 300
    this = next(r for r in record.log if r["kind"] == "sweep" and r.get("this"))
    total = sum(wide[n].numel() for n in masks)
    assert this["kept"] == pytest.approx(sum(alive.values()) / total)
    assert this["kept"] <= 0.01
    assert record.certificate.passed
    assert sprig("verify", out, "--threads", 1).exit_code == 0
    tuned = tmp_path / "tuned"
    answer("finetune", out, "--epochs", 1, "--out", tuned, "--threads", 1)
    after = read_tensors(tuned / "model.safetensors")
    assert all(bool((after[n][~m.bool()] == 0).all()) for n, m in masks.items())
    line = refused(*mlp, "--method", "group-lasso", "--remove-empty", "--out", tmp_path / "no")
    assert "--remove-empty is for methods on single weights" in line


def test_zeros_inside_the_units_that_stay_are_stored_and_kept(answer, tmp_path: Path) -> None:
    out = tmp_path / "sparse"
    answer(
        "train", *TINY, *SOME, "--method", "sparse-group-lasso", "--set", "strength=0.02", "--set",
        "mix=0.9", "--macs", 0.5, "--out", out,
    )  # fmt: skip
    record = load_record(out)
    assert record.certificate.passed
    masks, weights = (read_tensors(out / f"{n}.safetensors") for n in ("masks", "model"))
    assert all(torch.equal(weights[n] != 0, m.bool()) for n, m in masks.items())
    assert any(not bool(m.all()) for m in masks.values())
    assert read_compact(out)["conv1.weight"].equal(weights["conv1.weight"])
    assert {"layer", "storage", "sweep"} <= {row["kind"] for row in record.log}
    tuned = tmp_path / "tuned"
    answer("finetune", out, "--epochs", 1, "--out", tuned, "--threads", 1)
    after = read_tensors(tuned / "model.safetensors")
    assert not torch.equal(after["conv1.weight"], weights["conv1.weight"])
    assert all(bool((after[n][~m.bool()] == 0).all()) for n, m in masks.items())


def test_a_model_without_groups_is_shrunk_by_weights_alone(sprig, refused, tmp_path: Path) -> None:
    source = tmp_path / "odd.py"
    source.write_text(
        "import torch\n"
        "from torch import nn\n\n\n"
        "class Odd(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.a, self.b = nn.Linear(64, 16), nn.Linear(16, 10)\n\n"
        "    def forward(self, x):\n"
        "        x = self.a(x.flatten(1))\n"
        "        return self.b(torch.relu(x) if bool(x.sum() > 0) else torch.relu(2 * x))\n\n\n"
        "def make():\n"
        "    return Odd()\n"
    )
    call = ("train", "--model", f"{source}:make", "--image-size", 8, *SOME, "--keep", 0.5)
    result = sprig(*call, "--method", "l1", "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output + repr(result.exception)
    assert "gives no groups of channels" in result.stderr
    notes = [row["text"] for row in load_record(tmp_path / "run").log if row["kind"] == "note"]
    assert any("gives no groups of channels" in text for text in notes)
    assert load_record(tmp_path / "run").after.macs == 64 * 16 + 160
    line = refused(*call, "--method", "group-lasso", "--out", tmp_path / "no")
    assert "take a method on single weights" in line
    line = refused(*call, "--method", "l1", "--remove-empty", "--out", tmp_path / "no")
    assert "--remove-empty needs groups of channels" in line
    assert not (tmp_path / "no").exists()


def test_options_that_make_no_sense_are_refused(refused, tmp_path: Path) -> None:
    call = ("train", *TINY, *SOME, "--out", tmp_path / "no")
    assert "--keep, --set without --method" in refused(*call, "--keep", 0.5, "--set", "xi=1")
    assert "unknown method 'hallo'" in refused(*call, "--method", "hallo")
    assert "give one of --keep" in refused(*call, "--method", "l1", "--keep", 0.5, "--macs", 0.5)
    assert "xii" in refused(*call, "--method", "halo", "--set", "xii=1")
    assert "fits no trainable parameter" in refused(*call, "--method", "l1", "--exclude", "zz*")
    assert "fits no trainable parameter" in refused(*call, "--method", "gates", "--exclude", "zz*")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("grda", "--begin", 1), "knows no begin and no ramp"),
        (("group-grda", "--ramp", 1), "knows no begin and no ramp"),
        (("l1", "--begin", 2), "the penalty would never act"),
        (("l1", "--begin", -1), "begin is -1.0"),
        (("l1", "--begin", "nan"), "begin is nan"),
        (("l1", "--ramp", "inf"), "ramp is inf"),
        (("group-lasso", "--set", "units=3"), "units is no setting"),
        (("group-lasso", "--macs", 0.001), "below what is reachable"),
        (("l1", "--keep", 1.5), "in (0, 1]"),
        (("group-lasso", "--biases"), "leave out biases and norms"),
        (("gates", "--norms"), "leave out biases and norms"),
        (("l0", "--per-layer"), "decides itself what stays"),
        (("gates", "--keep", 0.5), "decides itself what stays"),
        (("l1", "--per-layer"), "but no share"),
        (("increg", "--per-layer"), "but no share"),
        (("halo", "--set", "mode=closed", "--set", "rate=3"), "rate is 3.0, which says nothing"),
        (("sws", "--set", "mode=closed", "--set", "start=3"), "start is 3.0, which says nothing"),
    ],
    ids=str,
)
def test_options_that_would_do_nothing_are_refused(options, text, refused, tmp_path: Path) -> None:
    out = tmp_path / "no"
    assert text in refused("train", *TINY, *SOME, "--out", out, "--method", *options)
    assert not out.exists()


def test_each_option_does_what_it_says(answer, tmp_path: Path) -> None:
    mlp = ("--model", "sprig:lenet-300-100", "--model-args", "image_size=8", "--image-size", 8)

    def shrunk(name: str, *options: object, net: tuple[object, ...] = mlp):
        out = tmp_path / name
        call = (
            "train",
            *net,
            *SOME,
            "--method",
            "l1",
            "--set",
            "mode=prox",
            "--set",
            "strength=1e-3",
        )
        log = answer(*call, *options, "--out", out, "--no-report")["log"]
        layers = {row["name"]: row["kept"] for row in log if row["kind"] == "layer"}
        zeros = [row["zeros"] for row in log if row["kind"] == "epoch"]
        return layers, zeros

    layers, zeros = shrunk("plain")
    assert set(layers) == {"fc1.weight", "fc2.weight", "fc3.weight"}
    assert zeros[0] > 0
    late = shrunk("late", "--begin", 1)[1]
    assert late[0] == 0 < late[1]
    assert 0 < shrunk("slow", "--ramp", 2)[1][0] < zeros[0]
    assert "fc3.bias" in shrunk("biases", "--biases")[0]
    normed = shrunk("norms", "--norms", net=TINY)[0]
    assert {"bn1.weight", "bn1.bias"} <= set(normed)
    assert "fc.bias" not in normed
    rest = load_record(tmp_path / "plain").before
    sizes = {"fc1.weight": 64 * 300, "fc2.weight": 300 * 100, "fc3.weight": 100 * 10}
    spread = {}
    for unit, whole in (("--params", rest.params), ("--macs", rest.macs)):
        fixed = whole - sum(sizes.values())
        for more in ((), ("--per-layer",)):
            layers = shrunk(f"cut{unit}{len(more)}", unit, 0.2, *more)[0]
            kept = sum(layers[n] * count for n, count in sizes.items())
            assert 0.19 * whole < kept + fixed <= 0.2 * whole
            spread[unit, bool(more)] = max(layers.values()) - min(layers.values())
        assert spread[unit, True] < 0.02 < spread[unit, False]


@pytest.mark.parametrize("method", ["group-lasso", "gates", "l0"])
def test_what_is_left_alone_stays_and_is_noted(method, answer, tmp_path: Path) -> None:
    cut = () if method in ("gates", "l0") else ("--keep", 0.5)
    found = answer(
        "train", *TINY, *SOME, "--method", method, *cut, "--no-first", "--out", tmp_path / "run"
    )
    plan = load_record(tmp_path / "run").plan
    assert "conv1" not in plan.keep
    assert "layer1.0.conv1" in plan.keep
    (note,) = [r["text"] for r in found["log"] if r["kind"] == "note" and "left alone" in r["text"]]
    assert note.endswith("groups of channels were left alone: conv1 (conv1.weight is excluded)")


def test_settings_of_the_methods_are_shown(sprig, answer) -> None:
    table = sprig("methods")
    assert "group-halo" in table.stdout
    assert max(map(len, table.stdout.splitlines())) <= 100
    card = answer("methods", "group-lasso")["methods"][0]
    assert [k["name"] for k in card["settings"]] == ["strength", "mode"]
    assert all(k["help"] for k in card["settings"])
    assert card["ends"] == "a smaller network"
    for row in answer("methods")["methods"]:
        told = [k["help"] for k in row["settings"]]
        assert all(told) or row["verb"] == "prune", row["name"]


@pytest.mark.parametrize("trained", [False, True])
def test_bad_input_leaves_nothing_but_epochs_that_were_finished(trained, tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    folder.put_json("config.json", {})
    if trained:
        (folder.path / "state").mkdir(exist_ok=True)
        (folder.path / "state" / "training.safetensors").write_bytes(b"0")
    with pytest.raises(InputError, match="what was trained is kept in" if trained else "^no$"):
        with undoing(folder):
            raise InputError("no")
    assert (tmp_path / "run").exists() is trained
