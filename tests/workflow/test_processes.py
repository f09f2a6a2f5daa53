"""Several real processes (gloo): the same plan and weights as one, refusals that all hear, errors that end all."""

import importlib.util
import json
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import sprig
from sprig.core.batches import as_batches
from sprig.core.deal import deal, owner
from sprig.core.errors import InputError
from sprig.core.ranks import ALONE, Ranks, present
from sprig.core.workbench import Workbench
from sprig.testing.processes import Processes

WORK = Path(__file__).with_name("processes_work.py")


@pytest.fixture(scope="module")
def work() -> ModuleType:
    spec = importlib.util.spec_from_file_location("processes_work", WORK)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def one(work: ModuleType) -> dict[str, Any]:
    return work.figures(work.cut(processes=False))


def shared(size: int, folder: Path) -> list[dict[str, Any]]:
    group = Processes(f"{WORK}:plans", size, folder, (str(folder),))
    codes = group.wait(400)
    assert codes == [0] * size, [group.said(rank)[-2000:] for rank in range(size)]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(size)]


def check_same(found: dict[str, Any], one: dict[str, Any]) -> None:
    assert found["plan"] == one["plan"]
    assert found["weights"] == one["weights"], "the bits of the refitted weights"
    assert found["passed"]
    for name, errors in one["layers"].items():
        assert found["layers"][name] == pytest.approx(errors, rel=1e-9)
    assert found["search"] == pytest.approx(one["search"], rel=1e-6)


@pytest.mark.flow
def test_two_processes_give_what_one_gives(work, one, tmp_path: Path) -> None:
    both = shared(2, tmp_path)
    for name, settings in (("reweight", {"method": "reweight"}), ("fisher", {"metric": "fisher"})):
        alone = work.figures(work.cut(processes=False, **settings))
        check_same(both[0][name], alone)
        check_same(both[1][name], alone)
    for answer in both:
        check_same(answer["refit"], one)
        assert answer["selection"] == json.loads(json.dumps(work.selection(processes=False)))
    check_same(both[0]["stream"], work.figures(work.streamed(processes=False)))
    assert both[0]["stream"] == both[1]["stream"]
    assert "modules= runs in one process only" in both[0]["modules"]
    assert "method 'loss' runs in one process only" in both[1]["loss"]
    assert all("were given 64, 67 samples; give all the same" in a["unequal"] for a in both)
    assert both[0]["led"] == "RuntimeError: out of luck"
    assert both[1]["led"] == "RanksError: process 0 of 2 stopped: out of luck"
    assert both[1]["each"] == [[0, 0], [1, 1], [2, 0], [3, 1], [4, 0]]
    assert "is a file; expected a folder" in both[0]["budget"]
    assert both[1]["budget"].startswith("RanksError: process 0 of 2 stopped: ")


@pytest.mark.flow
def test_four_processes_give_what_one_gives(work, one, tmp_path: Path) -> None:
    answers = shared(4, tmp_path)
    for answer in answers:
        check_same(answer["refit"], one)
        assert answer["selection"] == json.loads(json.dumps(work.selection(processes=False)))


def test_the_search_says_what_drawing_rows_costs(one) -> None:
    figures = one["search"]
    assert 0 < figures["rows drawn, least share of a layer's positions"] < 1
    assert 0 < figures["rows drawn, largest standard error of a layer's input power"] < 0.2


def test_processes_without_a_group_are_refused() -> None:
    with pytest.raises(InputError, match="is not initialised here"):
        present()
    x = torch.zeros(2, 4)
    with pytest.raises(InputError, match="processes=True"):
        sprig.search(torch.nn.Linear(4, 2), (x,), [x], processes=True)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
def test_chunks_are_dealt_out_once_and_evenly(size: int) -> None:
    owners = [owner(n, size) for n in range(84)]
    assert owners[0] == 0, "the first process sets the grid"
    counts = [owners.count(rank) for rank in range(size)]
    assert max(counts) - min(counts) <= 1 + 84 % size
    judges = [owners[n] for n in range(3, 84, 4)]
    assert max(judges.count(r) for r in range(size)) == math.ceil(len(judges) / size)


def by_hand(columns: list[torch.Tensor], size: int) -> list[list[torch.Tensor]]:
    """All samples in one piece, cut to equal sizes; the last one is filled up from the start."""
    total = len(columns[0])
    index = [torch.arange(start, start + size) % total for start in range(0, total, size)]
    return [[column[i] for column in columns] for i in index]


@pytest.mark.parametrize("kind", ["list", "loader", "stream"])
@pytest.mark.parametrize(("total", "size"), [(67, 14), (225, 15), (241, 16), (400, 16)])
def test_dealt_chunks_are_those_of_one_process(kind: str, total: int, size: int) -> None:
    """Batches of uneven sizes, inputs that are the same for all samples, one of them as long as the first batch,
    targets, a last chunk that is filled up, and a type that changes on the way."""
    scale, weights = torch.arange(5.0), torch.arange(20.0)
    x, y = torch.arange(total * 3.0).view(total, 3), torch.arange(total)
    cuts = [(0, 20), (20, 21), (21, 60), (60, total - 7), (total - 7, total)]
    parts = [(x[a:b].double() if a == 60 else x[a:b], y[a:b]) for a, b in cuts]
    batches = [((part, scale, weights), labels) for part, labels in parts]

    class Loader:
        def __iter__(self) -> Any:
            return iter(batches)

        def __len__(self) -> int:
            return len(batches)

    def read() -> Any:
        if kind == "stream":
            return as_batches(iter(batches), hold=False)
        return as_batches(Loader() if kind == "loader" else batches)

    expected = by_hand([x.double(), y], size)
    given = list(as_batches(batches))
    whole = Workbench(torch.nn.Linear(3, 1), None, given)  # type: ignore[arg-type]
    assert whole.size == size and whole.samples == total
    for ranks in (1, 3, 4):
        found = {}
        for rank in range(ranks):
            here = Ranks(rank, ranks)
            object.__setattr__(here, "gather", lambda value: [value])
            dealt = deal(read(), here)
            assert (dealt.samples, dealt.pieces) == (total, len(expected))
            assert torch.equal(dealt.first.args[0], expected[0][0])
            assert {owner(c.number, ranks) for c in dealt.chunks} == {rank}
            found |= {c.number: c for c in dealt.chunks}
        assert sorted(found) == list(range(len(expected)))
        for number, (inputs, labels) in enumerate(expected):
            rows = min(size, total - number * size)
            for chunk in (found[number], whole.chunks[number]):
                assert (chunk.number, chunk.rows) == (number, rows)
                assert torch.equal(chunk.args[0], inputs) and chunk.args[0].dtype == torch.float64
                assert torch.equal(chunk.args[1], scale) and torch.equal(chunk.args[2], weights)
                assert torch.equal(chunk.target, labels[:rows])


def test_all_batches_must_name_the_same_inputs() -> None:
    x = torch.zeros(4, 3)
    data = as_batches(iter([{"a": x, "b": x}, {"a": x}]), hold=False)
    with pytest.raises(InputError, match=r"names the inputs \['a'\], the first one \['a', 'b'\]"):
        deal(data, ALONE)


def test_no_data_cannot_be_dealt() -> None:
    with pytest.raises(InputError, match="the data is empty"):
        deal([], ALONE)
