"""Selection by the network's loss against a re-implementation that gates activations and runs everything."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import sprig
from sprig.core.batches import unpack
from sprig.core.errors import DivergenceError, InputError
from sprig.core.plan import Plan
from sprig.core.tracing import trace
from sprig.core.types import Budget
from sprig.core.workbench import Workbench
from sprig.methods.greedy.loss import ROUNDS, LossConfig, Selector, factors, realise, search
from sprig.methods.greedy.netloss import NetLoss, in_order

WIDTHS = (7, 6)
EXACT = LossConfig(candidates=None, prescreen=None, fresh=False, batch=64, check=64, full_path=True)


class Net(nn.Module):
    """Two hidden layers; `gates` multiply what enters the layer behind."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, WIDTHS[0]), nn.Linear(*WIDTHS)
        self.c = nn.Linear(WIDTHS[1], 4)
        g = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.randn(p.shape, generator=g))

    def forward(self, x: Tensor, gates: dict[str, Tensor] | None = None) -> Tensor:
        gates = gates or {}
        h = functional.relu(self.a(x)) * gates.get("a", torch.ones(()))
        h = functional.relu(self.b(h)) * gates.get("b", torch.ones(()))
        return self.c(h)


class Branched(nn.Module):
    """Convolutions, batch norm, a residual stream and a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(2, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.one, self.two = nn.Conv2d(6, 5, 3, padding=1), nn.Conv2d(5, 6, 1)
        self.side = nn.Conv2d(6, 4, 1)
        self.head = nn.Linear(10, 3)
        g = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.randn(p.shape, generator=g))
            self.bn.running_var.uniform_(0.5, 2, generator=g)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn(self.stem(x)))
        x = x + self.two(functional.relu(self.one(x)))
        x = torch.cat([x, functional.relu(self.side(x))], 1)
        return self.head(x.mean((2, 3)))


def rows(n: int = 48, seed: int = 3) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, 5, generator=g, dtype=torch.float64), torch.randint(4, (n,), generator=g)


def bench_of(net: nn.Module, x: Tensor, y: Tensor | None, seed: int = 0) -> Workbench:
    net = net.to(x.dtype).eval()
    batch = x if y is None else (x, y)
    return Workbench(net, trace(net, (x[:4],)), [unpack(batch)], seed)


@pytest.fixture
def bench() -> Workbench:
    x, y = rows()
    with torch.no_grad():
        y = torch.where(torch.rand(len(y), generator=torch.Generator().manual_seed(2)) < 0.8,
                        Net().double()(x).argmax(1), y)  # fmt: skip
    return bench_of(Net(), x, y)


def data(bench: Workbench) -> tuple[Tensor, Tensor]:
    (((x,), _, y),) = bench.triples
    return x, y


def value(net: Net, x: Tensor, y: Tensor, gates: dict[str, Tensor], objective: str) -> float:
    with torch.no_grad():
        out = net(x, gates)
        if objective == "labels":
            return float(functional.cross_entropy(out, y))
        p = net(x).log_softmax(1)
        return float((p.exp() * (p - out.log_softmax(1))).sum(1).mean())


def exhaustive(net, x, y, name, size, steps, before, *, again=False, objective="labels"):
    """The published loop, nothing saved: picks, and the loss after each."""
    counts, picks, losses = torch.zeros(size, dtype=torch.float64), [], []
    for n in range(steps):
        tried = {}
        for i in range(size):
            if again or i not in picks:
                a = counts / max(n, 1) * (1 - 1 / (n + 1))
                a = a + functional.one_hot(torch.tensor(i), size).double() / (n + 1)
                tried[i] = value(net, x, y, {**before, name: size * a}, objective)
        picks.append(min(tried, key=tried.__getitem__))
        counts[picks[-1]] += 1
        losses.append(tried[picks[-1]])
    return picks, losses


def outputs(net: nn.Module, weights, x: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.func.functional_call(net, dict(weights), (x,))


# ---- against exhaustive evaluation ------------------------------------------------------------------


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("objective", ["labels", "imitation"])
@pytest.mark.parametrize("name", ["a", "b"])
def test_the_picks_are_those_of_exhaustive_evaluation(bench, again, objective, name):
    x, y = data(bench)
    selector = Selector(bench, replace(EXACT, replacement=again, objective=objective))
    group = bench.graph.group(name)
    selector.net.enter(group)
    steps = list(selector.steps(group))
    assert {s.pick for s in steps} == set(range(group.size))
    steps = steps[: ROUNDS * group.size]  # from there on only units that were never picked enter
    picks, losses = exhaustive(
        bench.model, x, y, name, group.size, len(steps), {}, again=again, objective=objective
    )
    assert [s.pick for s in steps] == picks
    assert [s.loss for s in steps] == pytest.approx(losses, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize(
    "change", [{"cache": False}, {"prescreen": 4}, {"samples": 48, "check": 9}]
)
def test_prescreen_and_prefix_cache_change_no_pick(bench, change):
    plain, other = search(bench, EXACT), search(bench, replace(EXACT, **change))
    assert {n: p.order for n, p in plain.groups.items()} == {
        n: p.order for n, p in other.groups.items()
    }


def test_the_tally_of_layers(bench):
    """By hand: 3 layers, 4 chunks; every candidate at every step, checks on top."""
    plain = search(bench, replace(EXACT, cache=False)).record
    assert plain["layers_run"] == plain["layers_exhaustive"] and plain["layers_saved"] == 0
    tried = sum(n * (n + 1) // 2 for n in WIDTHS)
    checks = sum(n + 1 for n in WIDTHS)  # whole, nothing, and every size but the last
    chunks = len(bench.chunks)
    assert chunks == 4
    assert plain["evaluations"] == tried + checks
    assert plain["layers_run"] == 3 * chunks * (tried + checks + 1)
    cached = search(bench, EXACT).record
    assert cached["layers_exhaustive"] == plain["layers_run"]
    a, b = (n * (n + 1) // 2 + n + 1 for n in WIDTHS)
    assert cached["layers_run"] == chunks * (3 + 1 + 2 * a + 1 + b)
    short = search(bench, replace(EXACT, prescreen=2)).record
    assert short["layers_exhaustive"] == plain["layers_run"]
    assert short["evaluations"] < plain["evaluations"] and short["backward_passes"] > 0
    assert 0 < cached["layers_saved"] < 1


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("measure", ["loss", "accuracy"])
def test_tolerance_goes_from_input_to_output_with_earlier_groups_pruned(bench, again, measure):
    x, y = data(bench)
    net = bench.model
    share = 0.4 if measure == "loss" else 0.05
    config = replace(EXACT, tolerance=share, measure=measure, replacement=again)
    path = search(bench, config)
    gates: dict[str, Tensor] = {}

    def good(gates):
        with torch.no_grad():
            right = float((net(x, gates).argmax(1) == y).double().mean())
        return value(net, x, y, gates, "labels") if measure == "loss" else -right

    for name, size in zip("ab", WIDTHS):
        before = good(gates)
        limit = before * (1 + share) if measure == "loss" else before * (1 - share)
        for n in range(1, 5 * size):
            picks, _ = exhaustive(net, x, y, name, size, n, gates, again=again)
            counts = torch.bincount(torch.tensor(picks), minlength=size).double()
            here = size * counts / n
            if good({**gates, name: here}) <= limit or len(set(picks)) == size:
                break
        distinct = list(dict.fromkeys(picks))
        assert path.chosen[name] == len(distinct)
        assert list(path.groups[name].order[: len(distinct)]) == distinct
        if len(distinct) < size:
            gates[name] = here
    assert gates, "nothing was pruned: the test shows nothing"
    outcome = realise(bench, path.own(), config)
    assert {n: len(k) for n, k in outcome.plan.keep.items()} == dict(path.chosen)
    with torch.no_grad():
        torch.testing.assert_close(outputs(net, outcome.weights, x), net(x, gates))


def test_a_budget_is_realised_in_the_papers_order(bench):
    x, y = data(bench)
    path = search(bench, EXACT)
    plan = path.plan({bench.graph.group("a").index: 4, bench.graph.group("b").index: 3})
    outcome = realise(bench, plan, EXACT)
    gates: dict[str, Tensor] = {}
    for (name, size), n in zip(zip("ab", WIDTHS), (4, 3)):
        picks, _ = exhaustive(bench.model, x, y, name, size, n, gates)
        assert outcome.plan.keep[name] == tuple(sorted(picks))
        gates[name] = torch.zeros(size, dtype=torch.float64)
        gates[name][picks] = size / n
    with torch.no_grad():
        expected = bench.model(x, gates)
    torch.testing.assert_close(outputs(bench.model, outcome.weights, x), expected)
    assert outcome.plan.cost == plan.cost
    folded = realise(bench, plan, replace(EXACT, reselect=False))
    assert folded.plan.keep == plan.keep
    kept = {n: torch.zeros(s, dtype=torch.float64) for n, s in zip("ab", WIDTHS)}
    for name, gate in kept.items():
        gate[list(plan.keep[name])] = len(gate) / len(plan.keep[name])
    with torch.no_grad():
        expected = bench.model(x, kept)
    torch.testing.assert_close(outputs(bench.model, folded.weights, x), expected)


def test_harm_is_the_measured_rise_of_the_loss(bench):
    x, y = data(bench)
    path = search(bench, EXACT)
    before = value(bench.model, x, y, {}, "labels")
    for name, size in zip("ab", WIDTHS):
        picks, losses = exhaustive(bench.model, x, y, name, size, size, {})
        assert path.groups[name].order == tuple(picks)
        nothing = value(bench.model, x, y, {name: torch.zeros(size)}, "labels")
        rise = [max(v - before, 0.0) for v in (nothing, *losses[:-1], before)]
        expected = [max(rise[n:]) for n in range(size + 1)]
        assert path.harm[name] == pytest.approx(expected, abs=1e-12)
        assert path.groups[name].errors[0] == 1 and path.groups[name].errors[size] == 0
    plan = path.at(Budget(macs=0.5))
    assert plan.cost["macs"] <= 0.5 * bench.macs


# ---- wider than the small network -------------------------------------------------------------------


def images(dtype: torch.dtype, n: int = 40) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(5)
    return torch.randn(n, 2, 5, 5, generator=g).to(dtype), torch.randint(3, (n,), generator=g)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("again", [False, True])
def test_cache_and_resumption_give_the_same_bits(dtype, again):
    x, y = images(dtype)
    config = LossConfig(candidates=4, prescreen=2, batch=20, check=20, replacement=again)
    plain, cached = (
        search(bench_of(Branched(), x, y), replace(config, cache=c)) for c in (False, True)
    )
    assert plain.harm == cached.harm
    assert {n: p.order for n, p in plain.groups.items()} == {
        n: p.order for n, p in cached.groups.items()
    }
    assert cached.record["layers_run"] < plain.record["layers_run"]
    plan = Plan.from_json(cached.at(Budget(params=0.6)).to_json())
    one, two = (realise(bench_of(Branched(), x, y), plan, config) for _ in range(2))
    assert one.plan == two.plan and one.weights.keys() == two.weights.keys() and one.weights
    assert all(torch.equal(one.weights[n], two.weights[n]) for n in one.weights)
    assert one.plan.cost["params"] <= plan.cost["params"]


@pytest.mark.parametrize("objective", ["labels", "imitation"])
def test_the_slope_is_that_of_the_loss(objective):
    x, y = images(torch.float64)
    bench = bench_of(Branched(), x, y)
    net = NetLoss(bench, objective=objective)
    batch = range(len(net.chunks))
    for group in in_order(bench, bench.graph.prunable):
        net.enter(group)
        at = torch.linspace(0.3, 1.2, group.size, dtype=torch.float64)
        found = net.gradient(at, list(batch))
        for i in range(group.size):
            step = torch.zeros_like(at)
            step[i] = 1e-6
            rise = net.score(at + step, batch).loss - net.score(at - step, batch).loss
            assert float(found[i]) == pytest.approx(rise / 2e-6, rel=1e-4, abs=1e-7)
    assert net.backwards == len(bench.graph.prunable)


def test_prefix_is_entered_in_order(bench):
    net = NetLoss(bench)
    first, second = in_order(bench, bench.graph.prunable)
    assert (first.name, second.name) == ("a", "b")
    net.enter(second)
    with pytest.raises(InputError, match="from input to output"):
        net.enter(first)


def test_few_samples_fill_one_run(bench):
    x, y = data(bench)
    net = NetLoss(bench, samples=5)
    assert [c.rows for c in net.chunks] == [5]
    net.enter(bench.graph.group("b"))
    (chunk,) = net.chunks
    mine = chunk.args[0][:5]
    at = [int((x == row).all(1).nonzero()) for row in mine]
    assert len(set(at)) == 5
    expected = value(bench.model, x[at], y[at], {}, "labels")
    found = net.score(torch.ones(WIDTHS[1], dtype=torch.float64), [0])
    assert found.loss == pytest.approx(expected, rel=1e-12)
    with torch.no_grad():
        right = (bench.model(x[at]).argmax(1) == y[at]).double().mean()
    assert found.accuracy == pytest.approx(float(right))


def test_the_path_ends_early_where_the_loss_has_come_back(bench):
    full = search(bench, EXACT)
    short = search(bench, replace(EXACT, full_path=False, settled=0.5))
    assert short.record["evaluations"] < full.record["evaluations"]
    for name, size in zip("ab", WIDTHS):
        assert sorted(short.groups[name].order) == list(range(size))


def test_outputs_that_are_no_scores_can_be_imitated():
    x, _ = rows()
    net = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 1))
    bench = bench_of(net, x, None)
    config = replace(EXACT, objective="imitation", tolerance=0.2, measure="loss")
    path = search(bench, config)
    assert 1 <= path.chosen["0"] <= 6
    with pytest.raises(InputError, match="measure='loss'"):
        search(bench, replace(config, measure="accuracy"))
    with pytest.raises(InputError, match="objective='imitation'"):
        search(bench_of(net, x, rows()[1]), EXACT)


def test_factors_of_a_whole_group_are_one():
    counts = torch.tensor([2.0, 1.0, 0.0])
    assert factors(counts).tolist() == [2.0, 1.0, 0.0]
    assert factors(torch.ones(3)).tolist() == [1.0, 1.0, 1.0]


# ---- refusals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [{"candidates": 0}, {"prescreen": 0}, {"batch": 0}, {"check": 0}, {"samples": 0},
     {"tolerance": -0.1}, {"tolerance": math.inf}, {"settled": -1.0}, {"measure": "speed"},
     {"objective": "fame"}],
)  # fmt: skip
def test_knobs_that_mean_nothing_are_refused(bench, change):
    with pytest.raises(InputError, match=next(iter(change))):
        search(bench, replace(EXACT, **change))


def test_labels_are_asked_for():
    x, y = rows()
    with pytest.raises(InputError, match="needs labels"):
        search(bench_of(Net(), x, None), EXACT)
    for bad in (y.double(), y + 1 + (y == 3), y[:, None]):
        with pytest.raises(InputError, match=r"class numbers in 0\.\.3"):
            search(bench_of(Net(), x, bad), EXACT)


def test_infinite_inputs_are_refused():
    x, y = rows()
    x[40, 2] = math.inf
    with pytest.raises(DivergenceError, match="on the calibration data"):
        search(bench_of(Net(), x, y), EXACT)


def test_imitation_prunes_without_labels() -> None:
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)).eval()
    x = torch.randn(96, 6, generator=torch.Generator().manual_seed(1))
    config = LossConfig(objective="imitation", candidates=None, prescreen=None)
    result = sprig.prune(net, (x[:2],), [x], sprig.Budget(macs=0.6), method="loss", config=config)
    assert result.certificate.passed
    assert result.model[0].out_features <= 9
    with pytest.raises(sprig.InputError, match="labels"):
        sprig.prune(net, (x[:2],), [x], sprig.Budget(macs=0.6), method="loss")
