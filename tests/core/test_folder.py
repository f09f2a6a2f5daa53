"""The run folder: whom it belongs to, its stages, and what is killed continues with the same bits."""

import os
import signal
import stat
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sprig.core import folder as folder_module
from sprig.core.errors import StoreError
from sprig.core.plan import Plan
from sprig.core.store import (
    CONFIG,
    METRICS,
    MODEL,
    RunFolder,
    sha256_file,
    write_tensors,
)
from sprig.core.types import (
    Budget,
    GroupPath,
    Outcome,
)


@dataclass(frozen=True)
class Own:
    pair: tuple[int, str]
    deep: tuple[Budget, ...] = ()


# -- the folder -----------------------------------------------------------------------------------


def test_a_folder_that_holds_something_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(StoreError, match=r"is not empty \(it holds notes.txt\)"):
        RunFolder.create(tmp_path)
    with pytest.raises(StoreError, match="holds no run to resume"):
        RunFolder.create(tmp_path, resume=True)
    with pytest.raises(StoreError, match="is a file"):
        RunFolder.create(tmp_path / "notes.txt")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["notes.txt"]


def test_a_folder_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write to"):
        RunFolder.create(tmp_path / "file" / "run")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_folder_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        with pytest.raises(StoreError, match="cannot write to"):
            RunFolder.create(tmp_path / "run")
    finally:
        tmp_path.chmod(stat.S_IRWXU)


def test_a_folder_that_refuses_writes_is_refused(tmp_path: Path, monkeypatch) -> None:
    def refuse(self: Path, *args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(StoreError, match="Permission denied; name a folder"):
        RunFolder.create(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []


def test_discard_removes_what_create_made_and_no_more(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    folder = RunFolder.create(tmp_path / "runs" / "deep" / "a")
    folder.put_json(CONFIG, {"a": 1})
    folder.discard()
    assert list((tmp_path / "runs").iterdir()) == []
    given = RunFolder.create(tmp_path / "runs")
    given.keep("one", 1)
    given.discard()
    assert list(tmp_path.iterdir()) == [tmp_path / "runs"] and not list(
        (tmp_path / "runs").iterdir()
    )
    shared = RunFolder.create(tmp_path / "x" / "a")
    (tmp_path / "x" / "other").write_text("of someone else")
    shared.discard()
    assert [p.name for p in (tmp_path / "x").iterdir()] == ["other"]


def test_discard_leaves_a_resumed_folder_alone(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "a").keep("one", 1)
    again = RunFolder.create(tmp_path / "a", resume=True)
    again.discard()
    assert again.stage("one") == 1


def test_open_wants_a_run(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is not a folder"):
        RunFolder.open(tmp_path / "no")
    with pytest.raises(StoreError, match=r"has no config.json"):
        RunFolder.open(tmp_path)
    with pytest.raises(StoreError, match=r"has no plan.json; the run is unfinished"):
        RunFolder(tmp_path).get_text("plan.json")
    (tmp_path / "plan.json").write_bytes(b"\xff\xfe")
    with pytest.raises(StoreError, match="cannot read"):
        RunFolder(tmp_path).get_text("plan.json")
    with pytest.raises(StoreError, match="cannot write"):
        RunFolder(tmp_path).put_text("no/such.txt", "x")
    with pytest.raises(StoreError, match="cannot write"):
        write_tensors(tmp_path / "no" / "such", {"a": torch.ones(1)})


def test_begin_holds_a_resumed_run_to_its_options(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path)
    folder.begin({"seed": 1, "budget": Budget(macs=0.5)})
    folder.begin({"seed": 1, "budget": Budget(macs=0.5)})
    with pytest.raises(StoreError, match="begun with seed = 1, now it is 2"):
        folder.begin({"seed": 2, "budget": Budget(macs=0.5)})


# -- lines and stages -----------------------------------------------------------------------------


def test_a_torn_last_line_is_dropped(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path)
    folder.begin({})
    for epoch in range(3):
        folder.append({"kind": "epoch", "epoch": epoch})
    with open(folder / METRICS, "a") as file:
        file.write('{"kind": "epoch", "ep')
    assert [r["epoch"] for r in folder.rows()] == [0, 1, 2]
    folder = RunFolder.create(tmp_path, resume=True)
    folder.append({"kind": "epoch", "epoch": 3})
    assert [r["epoch"] for r in folder.rows()] == [0, 1, 2, 3]
    folder.keep_rows(2)
    folder.keep_rows(5)
    assert [r["epoch"] for r in folder.rows()] == [0, 1]


def test_a_stage_comes_back_with_its_types_and_bits(tmp_path: Path) -> None:
    plan = Plan(keep={"a": (0,)}, sizes={"a": 2}, graph="g")
    value = {
        "path": (GroupPath("a", (1, 0), (0.1, 0.2), (1.0, 0.3, 0.0), (0.5, float("inf"), 0.0)),),
        3: [None, True, 2, "x", float("nan")],
        ("t", 1): torch.arange(6, dtype=torch.float64).reshape(2, 3).t(),
        "version": torch.__version__,
        "np": np.array([True, False]),
        "numpy": (np.int64(4), np.float64(0.5), np.bool_(False)),
        "outcome": Outcome(plan, {"w": torch.ones(2, dtype=torch.bfloat16)}),
    }
    folder = RunFolder.create(tmp_path)
    back = folder.once("search", lambda: value)
    again = folder.once("search", lambda: pytest.fail("a finished stage is not computed again"))
    for got in (back, again):
        assert got["path"] == value["path"]
        assert got[3][:4] == value[3][:4] and np.isnan(got[3][4])
        tensor = got[("t", 1)]
        assert torch.equal(tensor, value[("t", 1)]) and tensor.is_contiguous()
        assert got["np"].dtype == bool and got["np"].tolist() == [True, False]
        assert got["numpy"] == (4, 0.5, False)
        assert type(got["version"]) is str and got["version"] == str(torch.__version__)
        assert got["outcome"].plan == plan
        assert got["outcome"].weights["w"].dtype == torch.bfloat16
    assert folder.stage("later") is None


def test_stages_refuse_what_they_cannot_bring_back(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path)
    with pytest.raises(StoreError, match="cannot save a object in a stage"):
        folder.keep("x", object())
    with pytest.raises(StoreError, match="expected letters, digits"):
        folder.keep("../x", 1)
    own = Own((1, "x"))
    folder.keep("own", own.deep, records=[Own])
    folder.put_tree("tree.safetensors", Own((2, "y")), records=[Own])
    assert folder.get_tree("tree.safetensors", records=[Own]).pair == (2, "y")
    with pytest.raises(StoreError, match="does not hold a saved stage"):
        folder.get_tree("tree.safetensors")
    write_tensors(folder / "odd.safetensors", {}, meta={"what": 1})
    with pytest.raises(StoreError, match="unknown node kind 'what'"):
        folder.get_tree("odd.safetensors")
    write_tensors(folder / "odd.safetensors", {}, meta={"tuple": [], "more": 1})
    with pytest.raises(StoreError, match="unknown node with keys"):
        folder.get_tree("odd.safetensors")


def test_finish_removes_the_state(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path)
    folder.begin({})
    folder.keep("one", 1)
    folder.put_model(nn.Linear(1, 1))
    assert not folder.finished
    folder.finish()
    assert folder.finished and sorted(p.name for p in tmp_path.iterdir()) == [CONFIG, MODEL]
    assert RunFolder.create(tmp_path, resume=True).finished


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch) -> None:
    folder = RunFolder.create(tmp_path)
    folder.put_json("a.json", 1)

    def refuse(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder_module, "replace", refuse)
    with pytest.raises(StoreError, match="No space left"):
        folder.put_json("a.json", 2)
    assert folder.get_json("a.json") == 1


WORKER = """
import sys, time, torch
from sprig.core.store import RunFolder, sha256_tensors
folder = RunFolder.create(sys.argv[1], resume=True)
folder.begin({"seed": 0})
value = torch.ones(400, 500)
for step in range(6):
    def work(value=value, step=step):
        generator = torch.Generator().manual_seed(step)
        return {"value": value.t().contiguous().t() + torch.randn(value.shape, generator=generator)}
    value = folder.once(f"step{step}", work)["value"]
    folder.keep_rows(step)
    folder.append({"kind": "step", "step": step})
    print(step, flush=True)
folder.put_tensors("model.safetensors", {"value": value})
folder.finish()
print("done", sha256_tensors({"value": value}), flush=True)
"""


@pytest.mark.flow
def test_killed_at_any_moment_the_same_bits_come_out(tmp_path: Path) -> None:
    """Kill at growing delays until a run gets through; compare with an undisturbed one."""
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}

    def start(name: str) -> subprocess.Popen[str]:
        command = [sys.executable, str(script), str(tmp_path / name)]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)

    whole = start("whole").communicate()[0].splitlines()[-1]
    assert whole.startswith("done")
    kills = 0
    for stop_after, delay in enumerate([0.0, 0.004]):
        process = start("torn")
        assert process.stdout is not None
        for _ in range(1 + stop_after % 2):
            process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
    last = start("torn").communicate()[0].splitlines()[-1]
    assert kills >= 1
    assert last == whole
    names = ["config.json", "metrics.jsonl", "model.safetensors"]
    assert sorted(p.name for p in (tmp_path / "torn").iterdir()) == names
    for name in names:
        assert sha256_file(tmp_path / "torn" / name) == sha256_file(tmp_path / "whole" / name)
