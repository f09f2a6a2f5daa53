"""Views of one thing stay together: what judges a fit never saw another view of what it was fitted on."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
)

import sprig
from sprig.core import deal as dealing
from sprig.core.batches import Triples, Views, as_batches
from sprig.core.deal import EVERY, chunk_size, deal, judges, settled
from sprig.core.errors import InputError
from sprig.core.ranks import ALONE
from sprig.core.seams import part_bench, rows_each
from sprig.core.tracing import trace
from sprig.core.workbench import Workbench
from sprig.data import load
from sprig.methods.greedy.evidence import evidence
from sprig.workflow import judging, recheck
from sprig.workflow.rival import divided


def bench_of(data: Any, net: nn.Module | None = None) -> Workbench:
    net = net or nn.Linear(1, 1)
    found = as_batches(data)
    graph = None if isinstance(net, nn.Linear) else trace(net, (next(iter(found))[0][0][:2],))
    return Workbench(net.eval(), graph, list(found), views=found.views)  # type: ignore[arg-type]


def sides(bench: Workbench, views: int) -> tuple[set[int], set[int]]:
    """The things that are fitted on and those that judge; the samples are numbered."""
    seen: tuple[set[int], set[int]] = (set(), set())
    for chunk in bench.chunks:
        numbers = chunk.args[0][: chunk.rows, 0].long() // views
        seen[judges(chunk.number)].update(numbers.tolist())
    return seen


@given(things=st.integers(4, 90), views=st.integers(1, 40), cut=st.integers(1, 50))
@settings(deadline=None, max_examples=150)
def test_no_thing_is_fitted_on_and_judges(things: int, views: int, cut: int) -> None:
    x = torch.arange(float(things * views))[:, None]
    bench = bench_of(Views(list(x.split(cut)), views))
    fitted, judging = sides(bench, views)
    assert fitted and judging and not fitted & judging
    assert fitted | judging == set(range(things))


def test_without_a_word_of_views_they_are_torn_apart() -> None:
    x = torch.arange(270.0)[:, None]
    fitted, judging = sides(bench_of([x]), 6)
    assert fitted & judging


@pytest.mark.parametrize(
    ("total", "views", "size"),
    [(270, 6, 12), (810, 18, 18), (100, 1, 15), (5, 1, 1), (6, 1, 1), (9, 1, 2), (3, 1, 1), (12, 6, 6), (1, 1, 1)],
)  # fmt: skip
def test_size_of_a_chunk(total: int, views: int, size: int) -> None:
    first = ((torch.zeros(8, 3),), {}, None)
    assert chunk_size(total, first, views) == size
    pieces = -(-total // size)
    assert pieces >= min(EVERY, total // views)


def test_views_that_do_not_fit_get_more_memory_or_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = ((torch.zeros(8, 3),), {}, None)
    monkeypatch.setattr(dealing, "MEMORY", 12 * 3 * 4 * 8 * 10)  # ten samples
    assert chunk_size(400, first) == 10
    assert [chunk_size(400, first, views=v) for v in (5, 10, 11, 40)] == [10, 10, 11, 40]
    with pytest.raises(InputError, match=r"41 views of each sample .* too large for more than 40"):
        chunk_size(400, first, views=41)


def test_fewer_samples_than_views_are_one_chunk() -> None:
    x = torch.arange(4.0)[:, None]
    for hold in (False, True):
        found = deal(as_batches(Views(iter([x]), 6), hold=hold), ALONE)
        assert [c.rows for c in found.chunks] == [4] and found.pieces == 1


@pytest.mark.parametrize("hold", [False, True])
@pytest.mark.parametrize("things", [9, 40, 71])
def test_shared_data_is_cut_as_that_of_one_process(hold: bool, things: int) -> None:
    x = torch.arange(things * 7.0)[:, None]
    batches = list(x.split(10))
    one = bench_of(Views(batches, 7))
    given = as_batches(Views(iter(batches), 7), hold=hold)
    assert given.views == 7 and given.held == hold
    found = deal(given, ALONE)
    assert [c.rows for c in found.chunks] == [c.rows for c in one.chunks]
    for mine, theirs in zip(found.chunks, one.chunks, strict=True):
        assert torch.equal(mine.args[0][: mine.rows], theirs.args[0][: mine.rows])
    assert settled(((x[:2],), {}, None), 7) % 7 == 0


def views_of(given: Triples) -> int:
    """What is said of the data by whoever has read it."""
    assert list(given)
    return given.views


def test_what_reads_a_part_still_knows() -> None:
    x = torch.zeros(60, 4)
    kept = as_batches(Views(iter(x.split(6)), 3), memory=300)
    assert (kept.views, kept.part, len(kept)) == (3, True, 3)
    read, part = as_batches(Views(iter(x.split(6)), 3), memory=200).within(200, views_of)
    assert (read, part.views) == (3, 3)

    class Loader:
        views = 3

        def __iter__(self) -> Any:
            return iter(x.split(6))

        def __len__(self) -> int:
            return 10

    own = as_batches(Loader())
    assert own.views == 3
    read, part = own.within(200, views_of)
    assert (read, part.views, part.part) == (3, 3, True)


@pytest.mark.parametrize("number", [0, -1, 1.5, True, "6"])
def test_numbers_of_views_that_make_no_sense(number: Any) -> None:
    with pytest.raises(InputError, match="views of each sample; expected a whole number"):
        as_batches(Views([torch.zeros(2, 2)], number))


def test_views_that_are_shuffled_are_refused() -> None:
    data, wrong = (
        TensorDataset(torch.zeros(12, 2)),
        "the DataLoader shuffles, so views of one thing",
    )
    own = DataLoader(data, batch_size=4, shuffle=True)
    own.views = 3  # type: ignore[attr-defined]
    loaders = [
        own,
        Views(DataLoader(data, batch_size=4, shuffle=True), 3),
        Views(DataLoader(data, sampler=SubsetRandomSampler(range(12))), 3),
        Views(DataLoader(data, batch_sampler=BatchSampler(RandomSampler(data), 4, False)), 3),
    ]
    for loader in loaders:
        with pytest.raises(InputError, match=wrong):
            as_batches(loader)
    assert as_batches(Views(DataLoader(data, batch_size=4), 3)).views == 3
    assert sum(len(x) for (x,) in Views(DataLoader(data, batch_size=4), 3)) == 12


def test_an_attribute_that_is_no_number_says_nothing() -> None:
    class Loader(list[Tensor]):
        def views(self) -> None:
            """Something else."""

    assert as_batches(Loader([torch.zeros(4, 2)])).views == 1


def test_loaders_say_how_many_views_they_give() -> None:
    assert load("digits", limit=5, views=4).views == 4
    assert load("digits", limit=5, views=4, split="train").views == 1
    assert as_batches(load("digits", limit=5, views=4)).views == 4


def crowd(things: int, views: int) -> tuple[nn.Module, Tensor]:
    """Few things, each seen often with hardly a difference: a fit learns them by heart."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(40, 48), nn.ReLU(), nn.Linear(48, 10)).eval()
    x = torch.randn(things, 1, 40) + 0.01 * torch.randn(things, views, 40)
    return net, x.flatten(0, 1)


def test_ridges_are_judged_on_things_that_were_not_fitted_on() -> None:
    """Who is not told that 600 samples are 30 things takes the weakest pull for enough, and learns them by heart."""
    net, x = crowd(30, 20)
    new = torch.randn(500, 40, generator=torch.Generator().manual_seed(1))
    pulls, errors = [], []
    for data in (Views([x], 20), [x]):
        ways = [
            evidence(bench_of(data, net), ridge=r, per_column=2.0, least=8192) for r in (None, 0.0)
        ]
        judged, bare = (next(iter(e.whole.values())).second.diagonal().mean() for e in ways)
        pulls.append(float(judged / bare) - 1)
        small = sprig.prune(net, (x[:2],), data, sprig.Budget(macs=0.5)).model
        with torch.no_grad():
            errors.append(float((net(new) - small(new)).square().mean() / net(new).var()))
    assert pulls[0] > 10 * pulls[1], pulls
    assert errors[0] < 0.5 * errors[1], errors


def test_quarters_of_a_latency_run_keep_things_whole() -> None:
    net, x = crowd(24, 5)
    x[:, 0] = torch.arange(120.0)
    parts = divided(bench_of(Views([x], 5), net))
    assert parts is not None
    on, judge = parts
    fitted = {int(n) // 5 for t in on.triples for n in t[0][0][:, 0]}
    judging = {int(n) // 5 for (args, _) in judge for n in args[0][:, 0]}
    assert fitted | judging == set(range(24)) and not fitted & judging
    inner = sides(on, 5)
    assert not inner[0] & inner[1]


@pytest.mark.parametrize("where", [recheck, judging])
def test_what_is_certified_and_what_is_rechecked_goes_by_the_views(
    where: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def spy(*args: Any, **named: Any) -> Workbench:
        seen.append(named["views"])
        return Workbench(*args, **named)

    monkeypatch.setattr(where, "Workbench", spy)
    net, x = crowd(20, 5)
    held_out = Views([x[:30]], 3)
    result = sprig.prune(
        net,
        (x[:2],),
        Views([x], 5),
        sprig.Budget(macs=0.5),
        eval_data=held_out,
        folder=tmp_path / "run",
    )
    assert result.certificate.passed
    again = sprig.verify(tmp_path / "run", net, data=Views([x], 5), eval_data=held_out)
    assert again.passed, [c for c in again.claims if not c.passed]
    assert seen == ([5, 3] if where is recheck else [3])


class Windows(nn.Module):
    """Four rows of each sample go through one part."""

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 3))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.part(x.reshape(-1, 8))
        return found.reshape(len(x), -1)


def test_a_part_has_as_many_rows_of_a_thing_as_the_model_gives_it() -> None:
    net, x = Windows().eval(), torch.randn(60, 32)
    graph = trace(net, (x[:2],), modules=["part"])
    bench = Workbench(net, graph, [((x[:40],), {}, None), ((x[40:],), {}, None)], views=6)
    (part,) = graph.parts
    assert part_bench(bench, part).views == 24
    given = [((torch.zeros(n, 2),), {}, None) for n in (8, 12)]
    for rows, times in (((16, 24), 2), ((16, 12), 1), ((8,), 1), ((4, 6), 1)):
        assert rows_each(given, [((torch.zeros(n, 2),), {}, None) for n in rows]) == times
