"""The run folder: what is written comes back, what is damaged is refused, what is killed continues."""

import json
import os
import pickle
import signal
import stat
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch import nn

from sprig.core import folder as folder_module
from sprig.core.errors import StoreError
from sprig.core.plan import Plan
from sprig.core.records import dumps, loads, plain, read
from sprig.core.store import (
    CONFIG,
    METRICS,
    MODEL,
    RunFolder,
    check_finite,
    load_into,
    load_record,
    read_tensors,
    save_run,
    sha256_file,
    sha256_model,
    sha256_tensors,
    state_of,
    write_tensors,
)
from sprig.core.types import (
    Budget,
    Certificate,
    Claim,
    CurvePoint,
    GroupPath,
    GroupRow,
    Measures,
    Outcome,
    RunRecord,
)
from sprig.core.weights import read_meta


def record() -> RunRecord:
    plan = Plan(keep={"a": (0, 2)}, sizes={"a": 3}, graph="f" * 64, method="refit", seed=3)
    claim = Claim("same", "masked = shrunk", True, 1e-12, 1e-9, "probe", "ran both", {"worst": "a"})
    unbounded = Claim("rate", "no bound", True, float("inf"), None, "none", "by the rule")
    return RunRecord(
        title="a run",
        config={"verb": "prune", "options": {"model": "x", "seed": 3}},
        plan=plan,
        certificate=Certificate((claim, unbounded), {"plan": plan.hash}, {"torch": "2"}, 3),
        before=Measures(
            10, 20, 80, {"1": {"median": 1.5, "low": 1.0, "high": 2.0}}, {"agreement": 1.0}
        ),
        after=Measures(5, 9, 36, quality={"agreement": 0.9}),
        groups=(GroupRow("a", 3, (0, 2), None, 0.5, (1.0, 0.4, 0.1, 0.0), (0.9, 0.2, 0.1, 0.0)),),
        curve=(CurvePoint(0.5, 5, 9, 0.1, {"agreement": 0.9}), CurvePoint(1.0, 10, 20, 0.0)),
        log=({"kind": "epoch", "epoch": 1, "loss": 0.25},),
    )


# -- records as JSON ------------------------------------------------------------------------------


def test_a_record_survives_the_folder(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    save_run(folder, record())
    assert load_record(folder) == record()
    assert load_record(str(folder.path)) == record()
    for line in (folder / METRICS).read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_a_run_that_only_trained_has_no_plan(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    bare = RunRecord("t", {}, None, None, Measures(1, 1, 4), Measures(1, 1, 4), (), ())
    save_run(folder, bare)
    assert load_record(folder) == bare


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda rows: rows[1].update(extra=1), "unknown key 'extra'"),
        (lambda rows: rows[1].pop("macs"), "'macs' is missing"),
        (lambda rows: rows[1].update(macs="many"), "expected int, found 'many'"),
        (lambda rows: rows[1].update(macs=True), "expected int, found True"),
        (lambda rows: rows.pop(2), "0 lines of kind 'after'"),
        (lambda rows: rows.append({"loss": 1}), 'has no "kind"'),
    ],
)
def test_an_edited_summary_is_refused(tmp_path: Path, edit, said: str) -> None:
    folder = RunFolder.create(tmp_path / "run")
    save_run(folder, record())
    rows = folder.rows()
    edit(rows)
    (folder / METRICS).write_text("".join(json.dumps(r) + "\n" for r in rows))
    with pytest.raises(StoreError, match=said):
        load_record(folder)


def test_a_damaged_line_in_the_middle_is_refused(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    (folder / METRICS).write_text('{"kind": "epo\n{"kind": "epoch"}\n')
    with pytest.raises(StoreError, match=r"line 1 is not valid JSON"):
        folder.rows()


def test_a_log_line_may_not_pose_as_summary(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    with pytest.raises(StoreError, match='needs a "kind"'):
        folder.append({"kind": "before"})
    bad = RunRecord("t", {}, None, None, Measures(1, 1, 4), Measures(1, 1, 4), (), (), ({"a": 1},))
    with pytest.raises(StoreError, match='without a "kind"'):
        save_run(folder, bad)


@dataclass(frozen=True)
class Every:
    kind: Literal["a", "b"]
    pair: tuple[int, str]
    either: int | float | None = None
    items: list[float] = field(default_factory=list)
    at: Path = Path("x")
    deep: tuple[Budget, ...] = ()


def test_read_follows_the_annotations() -> None:
    every = Every("a", (1, "x"), 3, [1.0, float("-inf")], Path("p/q"), (Budget(macs=0.5),))
    back = read(Every, loads(dumps(every), what="it"))
    assert back == every
    assert type(back.either) is int
    for key, value, said in [
        ("kind", "c", "one of a, b"),
        ("pair", [1], "tuple"),
        ("either", "x", "int or float or null"),
        ("deep", [{"watts": 1}], "unknown key 'watts'"),
        ("items", 5, "list"),
    ]:
        with pytest.raises(StoreError, match=said):
            read(Every, {**loads(dumps(every), what="it"), key: value})
    with pytest.raises(StoreError, match="expected an object"):
        read(Every, [1])


def test_plain_speaks_numpy_and_torch_and_refuses_the_rest() -> None:
    value = {"n": np.int64(3), "f": np.float32(0.5), "b": np.bool_(True), "a": np.arange(2)}
    assert plain({**value, "t": torch.ones(2), "s": {2, 1}}) == {
        "n": 3, "f": 0.5, "b": True, "a": [0, 1], "t": [1.0, 1.0], "s": [1, 2],
    }  # fmt: skip
    with pytest.raises(StoreError, match="cannot write a object as JSON"):
        plain(object())
    with pytest.raises(StoreError, match="truncated or damaged"):
        loads('{"a": 1', what="x.json")


# -- tensors --------------------------------------------------------------------------------------


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("view", torch.arange(6.0).reshape(2, 3).t())


def test_tied_tensors_are_written_once_and_come_back_under_every_name(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Tied()
    write_tensors(tmp_path / "m.safetensors", state_of(model))
    raw = (tmp_path / "m.safetensors").read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    assert set(header) == {"__metadata__", "embed.weight", "view"}
    state = read_tensors(tmp_path / "m.safetensors")
    assert {n: t.tolist() for n, t in state.items()} == {
        n: t.tolist() for n, t in state_of(model).items()
    }
    other = load_into(Tied(), tmp_path / "m.safetensors")
    assert other.head.weight is other.embed.weight
    assert sha256_model(other) == sha256_model(model)


def test_the_hash_sees_content_only_and_all_of_it() -> None:
    base = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(1, dtype=torch.int8)}
    same = {"b": base["b"].clone(), "a": base["a"].t().contiguous().t()}
    assert sha256_tensors(base) == sha256_tensors(same)
    for name, other in [
        ("a", base["a"].reshape(3, 2)),
        ("a", base["a"].double()),
        ("a", base["a"] + torch.tensor([[0, 0, 0], [0, 0, 1e-6]])),
        ("b", base["b"].bool()),
    ]:
        assert sha256_tensors({**base, name: other}) != sha256_tensors(base)
    assert sha256_tensors({"a": base["a"]}) != sha256_tensors({"c": base["a"]})
    assert sha256_tensors({"e": torch.empty(0, 3)}) != sha256_tensors({"e": torch.empty(3, 0)})


def test_equal_tensors_give_equal_files(tmp_path: Path) -> None:
    for name in ("x", "y"):
        write_tensors(
            tmp_path / name, {"b": torch.ones(2), "a": torch.zeros(3)}, meta={"k": [1, 2]}
        )
    assert sha256_file(tmp_path / "x") == sha256_file(tmp_path / "y")
    assert read_meta(tmp_path / "x") == {"k": [1, 2]}


def offer_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"a": 1}))


def offer_torch(path: Path) -> None:
    torch.save({"a": torch.ones(2)}, path)


def offer_half(path: Path) -> None:
    write_tensors(path, {"a": torch.ones(100)})
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize(
    ("offer", "said"),
    [
        (offer_pickle, "is a pickle"),
        (offer_torch, "is a pickle"),
        (offer_half, "truncated or damaged"),
        (lambda path: path.write_bytes(b"weights"), "not a safetensors file"),
        (lambda path: path.write_bytes(b""), "not a safetensors file"),
        (lambda path: path.write_bytes(b"\x08" + b"\0" * 7 + b"{nonsens"), "truncated or damaged"),
        (lambda path: None, "does not exist"),
        (lambda path: path.mkdir(), "cannot read"),
    ],
)
def test_what_is_not_safetensors_is_refused(tmp_path: Path, offer, said: str) -> None:
    offer(tmp_path / MODEL)
    with pytest.raises(StoreError, match=said) as caught:
        RunFolder(tmp_path).load_model(nn.Linear(2, 2))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda s: s.pop("bias"), "bias is missing"),
        (lambda s: s.update(extra=torch.ones(1)), "unexpected tensor extra"),
        (
            lambda s: s.update(weight=torch.ones(3, 2)),
            r"weight has shape \[3, 2\], the model expects",
        ),
        (lambda s: s["bias"].fill_(float("nan")), "bias holds 2 values that are NaN"),
    ],
)
def test_weights_that_do_not_fit_are_refused_and_the_model_is_untouched(
    tmp_path: Path, edit, said: str
) -> None:
    model = nn.Linear(2, 2)
    before = sha256_model(model)
    state = {n: torch.ones_like(t) for n, t in state_of(model).items()}
    edit(state)
    write_tensors(tmp_path / MODEL, state)
    with pytest.raises(StoreError, match=said):
        load_into(model, tmp_path / MODEL)
    assert sha256_model(model) == before


def test_state_that_is_not_tensors_is_refused() -> None:
    class Extra(nn.Linear):
        def get_extra_state(self) -> dict[str, int]:
            return {"n": 1}

        def set_extra_state(self, state: dict[str, int]) -> None: ...

    with pytest.raises(StoreError, match="the state holds a dict"):
        state_of(Extra(1, 1))


def test_nan_is_not_written(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight[0, 0] = float("inf")
    folder = RunFolder.create(tmp_path)
    with pytest.raises(StoreError, match="weight holds 1 values"):
        folder.put_model(model)
    assert not folder.has(MODEL)
    check_finite({"n": torch.tensor([1, 2])}, what="integers")


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
    own = Every("a", (1, "x"))
    folder.keep("own", own.deep, records=[Every])
    folder.put_tree("tree.safetensors", Every("b", (2, "y"), at="p"), records=[Every])
    assert folder.get_tree("tree.safetensors", records=[Every]).pair == (2, "y")
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
