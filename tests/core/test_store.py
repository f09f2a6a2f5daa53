"""Records and weights on disk: what is written comes back, what is damaged or unsafe is refused."""

import json
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch import nn

from sprig.core.errors import StoreError
from sprig.core.plan import Plan
from sprig.core.records import dumps, loads, plain, read
from sprig.core.store import (
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
    GroupRow,
    Measures,
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
