"""From `modules=` to a certified run: parts of a model that cannot be exported are searched, cut and verified."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sprig
from sprig.core.batches import as_batches
from sprig.core.errors import InputError, StoreError
from sprig.core.folder import RunFolder
from sprig.core.path import Path as SearchPath
from sprig.core.seams import part_bench
from sprig.core.surgery import mask
from sprig.core.types import GroupPath, Outcome
from sprig.core.workbench import Workbench
from sprig.methods import METHODS
from sprig.methods.greedy.refit import RefitConfig
from sprig.testing.branches import branching
from sprig.workflow.pieces import exchange_rate, in_parts

SEED = torch.Generator().manual_seed(3)
DATA = [torch.randn(24, 3, 8, 8, generator=SEED) for _ in range(3)]
UNSEEN = [torch.randn(24, 3, 8, 8, generator=SEED)]
EXAMPLE = (DATA[0][:2],)
PARTS = ["stem", "stages.0", "head"]
QUICK = RefitConfig(trial_work=1e8, ratio_pairs=4)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Any, Path]:
    model = branching()
    result = sprig.prune(
        model, EXAMPLE, DATA, sprig.Budget(macs=0.6), modules="auto", config=QUICK, eval_data=UNSEEN
    )
    return model, result, result.save(tmp_path_factory.mktemp("modules") / "run")


def test_the_whole_model_comes_back_smaller_and_certified(run: Any) -> None:
    model, result, _ = run
    assert all(torch.equal(v, branching().state_dict()[k]) for k, v in model.state_dict().items())
    assert type(result.model) is type(model)
    assert result.certificate.passed
    names = {c.name for c in result.certificate.claims}
    assert {"masked-equals-shrunk-float64", "budget-macs", "layer-errors-held-out",
            "lower-bound", "submodularity-ratio"} <= names  # fmt: skip
    assert 0.5 < result.after.macs / result.before.macs <= 0.6
    assert result.after.params == sum(p.numel() for p in result.model.parameters())
    assert {"stem.0", "stages.0.0", "head.1"} == set(result.plan.keep)
    errors = next(c for c in result.certificate.claims if c.name == "layer-errors-calibration")
    assert set(errors.detail["errors"]) == {
        "stem.3.weight", "stages.0.2.weight", "head.3.weight"
    }  # fmt: skip
    for name in ("gate.weight", "stages.1.0.weight", "stem.3.bias"):  # outside, and the seam's size
        a, b = result.model.get_parameter(name), model.get_parameter(name)
        assert a.shape == b.shape and (name == "stem.3.bias" or torch.equal(a, b))
    with torch.no_grad():
        assert result.after.quality["agreement"] > 0.6
        assert result.model(UNSEEN[0]).shape == (24, 10)


def test_the_folder_comes_back_and_every_claim_is_recomputed(run: Any) -> None:
    model, result, folder = run
    small = sprig.load(folder, model=branching())
    with torch.no_grad():
        assert torch.equal(small(UNSEEN[0]), result.model(UNSEEN[0]))
    again = sprig.verify(folder, model, DATA, UNSEEN)
    assert again.passed
    assert {c.name for c in result.certificate.claims} <= {c.name for c in again.claims}
    other = sprig.verify(folder, model, UNSEEN)
    assert {c.name for c in other.claims if not c.passed} >= {"data-calibration"}
    assert RunFolder.open(folder).get_json("config.json")["modules"] == PARTS


def test_refit_of_a_later_part_is_better_than_none(run: Any) -> None:
    model, result, _ = run
    plain = sprig.shrink(model, result.plan, result.graph).eval()
    with torch.no_grad():
        want = model(UNSEEN[0])
        lost = [float((m(UNSEEN[0]) - want).square().sum()) for m in (result.model.eval(), plain)]
    assert lost[0] < 0.7 * lost[1]


def bench_of(model: nn.Module, example: Any, data: Any, modules: Any) -> Workbench:
    twin = copy.deepcopy(model).eval()
    graph = sprig.trace(twin, example, modules=modules)
    return Workbench(twin, graph, list(as_batches(data)))


def test_parts_are_searched_on_dense_inputs_and_made_on_pruned_ones() -> None:
    """A method that only takes down what it is given, and cuts the first half."""
    seen: dict[str, list[Workbench]] = {"search": [], "realise": []}

    def search(bench: Workbench, config: Any) -> SearchPath:
        seen["search"].append(bench)
        groups = {
            g.name: GroupPath(
                g.name, tuple(range(g.size)), (0.0,) * g.size, (0.0,) * (g.size + 1), ()
            )
            for g in bench.graph.prunable
        }
        return SearchPath(bench.graph, groups, {}, method="magnitude")

    def realise(bench: Workbench, plan: sprig.Plan, config: Any) -> Outcome:
        seen["realise"].append(bench)
        (group,) = bench.graph.prunable
        bias = next(n for n in bench.weights if n == f"{group.name}.bias")
        return Outcome(plan, {bias: torch.ones_like(bench.weights[bias])})

    model = branching()
    bench = bench_of(model, EXAMPLE, DATA, PARTS)
    method = in_parts(replace(METHODS["magnitude"], search=search, realise=realise))
    path = method.search(bench, None)
    plan = path.plan({g.index: g.size // 2 for g in bench.graph.prunable})
    outcome = method.realise(bench, plan, None)
    assert set(outcome.weights) == {"stem.0.bias", "stages.0.0.bias", "head.1.bias"}
    assert outcome.plan.keep == plan.keep and outcome.plan.cost == plan.cost
    with torch.no_grad():
        features = nn.functional.adaptive_avg_pool2d(model.stem(DATA[1]), 2)
        torch.testing.assert_close(seen["search"][1].triples[1][0][0], features)
        cut = mask(model, replace(outcome, plan=plan), bench.graph)
        changed = nn.functional.adaptive_avg_pool2d(cut.stem(DATA[1]), 2)
        torch.testing.assert_close(seen["realise"][1].triples[1][0][0], changed)
        torch.testing.assert_close(
            seen["realise"][2].triples[1][0][0], changed + cut.stages[0](changed)
        )
    assert (features - changed).abs().max() > 1e-3
    assert seen["realise"][0] is seen["search"][0]  # nothing is cut before it
    weights = seen["realise"][1].weights["0.weight"]  # the targets are the dense part's own
    assert torch.equal(weights, model.stages[0][0].weight)


class Sum(nn.Module):
    """Two parts, each behind a factor."""

    def __init__(self, a: float, b: float) -> None:
        super().__init__()
        self.left, self.right = (
            nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1)) for _ in "ab"
        )
        self.a, self.b = a, b

    def forward(self, x: Tensor) -> Tensor:
        y = self.a * self.left(x) + self.b * self.right(x)
        return y if float(y.detach().abs().max()) < 1e9 else -y


def test_harm_in_a_part_is_brought_to_the_scale_of_the_whole() -> None:
    """Relative squared errors: the factor is that of the variances, a^2 var(left) / var(whole)."""
    torch.manual_seed(1)
    x = torch.randn(64, 4)
    for a, b in ((1.0, 0.0), (3.0, 1.0), (1.0, 3.0)):
        torch.manual_seed(2)
        bench = bench_of(Sum(a, b), (x[:2],), [x], ["left", "right"])
        part = bench.graph.parts[0]
        path = METHODS["magnitude"].search(part_bench(bench, part), METHODS["magnitude"].config())
        rate = exchange_rate(bench, part, path)
        with torch.no_grad():
            left, whole = bench.model.left(x), bench.model(x)
        assert rate == pytest.approx(float(a**2 * left.var() / whole.var()), rel=1e-3)


class Boxes(nn.Module):
    """As many answers as there are large values: nothing that two models could be compared by."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6))
        self.head = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> list[dict[str, Tensor]]:
        y = self.head(self.body(x))
        if float(y.detach().sum()) > 1e9:
            return []
        return [{"scores": row[row > row.median()]} for row in y] + [{"sum": y[y > 0]}]


def test_outputs_that_cannot_be_compared_leave_the_scales_as_they_are() -> None:
    torch.manual_seed(0)
    x = torch.randn(32, 4)
    bench = bench_of(Boxes(), (x[:2],), [x], "auto")
    path = in_parts(METHODS["refit"]).search(bench, QUICK)
    assert len(bench.graph.parts) == 2 and set(path.groups) == {"body.0", "head.0"}
    rates = [v for k, v in path.record.items() if "harm to the whole" in k]
    assert rates == [1.0, 1.0]


def test_a_method_without_harms_and_batch_norm_of_the_whole() -> None:
    result = sprig.prune(
        branching(), EXAMPLE, DATA, sprig.Budget(params=0.8), modules=["stem"], method="magnitude"
    )
    assert result.certificate.passed and set(result.plan.keep) == {"stem.0"}
    assert not torch.equal(
        result.model.stem[1].running_mean, torch.zeros(len(result.plan.keep["stem.0"]))
    )


def test_a_path_answers_budgets_of_the_whole() -> None:
    path = sprig.search(branching(), EXAMPLE, DATA, modules=PARTS, config=QUICK)
    for share in (0.8, 0.6):
        plan = path.at(sprig.Budget(macs=share))
        small = sprig.shrink(branching(), plan, path.graph)
        assert plan.cost["params"] == sum(p.numel() for p in small.parameters())


def test_a_run_is_resumed_as_it_was_begun(tmp_path: Path) -> None:
    options: dict[str, Any] = {"method": "random", "folder": tmp_path / "run"}
    budget = sprig.Budget(params=0.9)
    sprig.prune(branching(), EXAMPLE, DATA, budget, modules=["stem"], **options)
    folder = RunFolder(tmp_path / "run")
    (folder / "state").mkdir()
    folder.keep("settings", {"modules": ["stem"]})
    with pytest.raises(StoreError, match=r"begun with method = None"):
        sprig.prune(branching(), EXAMPLE, DATA, budget, modules=["stem"], resume=True, **options)
    settings = {
        "method": "random",
        "config": {},
        "budget": {"params": 0.9},
        "round_to": 1,
        "alike": False,
        "exclude": [],
    }
    folder.keep("settings", {**settings, "seed": 0, "modules": ["stem"]})
    with pytest.raises(StoreError, match=r"modules = \['stem'\], now it is \['head'\]"):
        sprig.prune(branching(), EXAMPLE, DATA, budget, modules=["head"], resume=True, **options)


def test_what_parts_cannot_have_is_refused() -> None:
    model = branching()
    with pytest.raises(InputError, match="budgets of latency need a model that is exported"):
        sprig.prune(model, EXAMPLE, DATA, sprig.Budget(latency=0.5), modules=["stem"])
    labelled = [(x, torch.zeros(len(x), dtype=torch.long)) for x in DATA]
    with pytest.raises(InputError, match="'loss' goes by labels"):
        sprig.prune(
            model, EXAMPLE, labelled, sprig.Budget(macs=0.9), modules=["stem"], method="loss"
        )
    bench = bench_of(model, EXAMPLE, DATA, ["stages.0"])
    with torch.no_grad():
        bench.model.gate.bias.neg_()  # type: ignore[union-attr]
    with pytest.raises(InputError, match=r"'stages\.0' is never called on this data"):
        part_bench(bench, bench.graph.parts[0])
