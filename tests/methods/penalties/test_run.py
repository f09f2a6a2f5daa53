"""Training and cut in one call."""

import pytest
import torch
from torch import nn

from sprig.core.errors import InputError, StoreError
from sprig.core.tracing import trace
from sprig.core.types import Budget
from sprig.methods.penalties.cut import (
    keep_largest,
)
from sprig.methods.penalties.gates import Gates
from sprig.methods.penalties.grda import GroupGrda
from sprig.methods.penalties.group_lasso import GroupLasso, SparseGroupLasso
from sprig.methods.penalties.halo import Halo
from sprig.methods.penalties.increg import IncReg
from sprig.methods.penalties.l1 import L1
from sprig.methods.penalties.run import Cut, train_and_cut
from sprig.methods.penalties.scope import Scope
from sprig.methods.penalties.shelf import PENALTIES
from sprig.testing.penalised import perceptron
from sprig.training import FinetuneConfig, Moment, TrainConfig, finetune
from sprig.training.masks import HeldZeros


def test_held_masks_stay_while_momentum_pulls(batches):
    model = perceptron()
    weights = {n: p.detach() for n, p in model.named_parameters() if p.ndim > 1}
    held = HeldZeros(keep_largest(weights, 0.2))
    record = finetune(model, batches, config=FinetuneConfig(epochs=3, lr=0.1), hooks=[held])
    for name, p in record.model.named_parameters():
        if name in held.masks:
            assert torch.equal(p != 0, held.masks[name])
    again = HeldZeros({})
    again.load_state_dict(held.state_dict())
    assert all(torch.equal(m, held.masks[n]) for n, m in again.masks.items())


FAST = {
    "gates": {"strength": 0.05, "rate": 30.0},
    "increg": {"step": 0.1, "ceiling": 1.0},
    "greg1": {"step": 0.1, "every": 1, "hold": 2},
    "greg2": {"step": 0.1, "every": 1, "hold": 2, "probe": 0.1, "probe_ceiling": 0.2},
    "grda": {"c": 0.05},
    "group-grda": {"c": 0.05},
    "group-lasso": {"strength": 0.01},
    "bn-slimming": {"strength": 0.01},
}


@pytest.mark.parametrize("method", [m for m in PENALTIES if m != "bn-slimming"])
def test_every_method_trains_and_ends_as_it_says(method, batches, graph):
    entry = PENALTIES[method]
    settings = entry.config(**FAST.get(method, {}))
    cut = Cut() if entry.kind == "gates" else Cut(keep=0.4)
    found = train_and_cut(
        perceptron(),
        batches,
        method=method,
        settings=settings,
        config=TrainConfig(epochs=3, lr=0.05),
        cut=cut,
        graph=graph if entry.groups else None,
    )
    x = batches[0][0]
    assert len(found.history) == 3
    assert all(torch.isfinite(p).all() for p in found.model.parameters())
    if entry.groups:
        assert found.plan.method == method
        assert entry.single or not found.masks
        size = sum(p.numel() for p in found.model.parameters())
        assert size == found.plan.cost["params"]
    else:
        assert found.plan is None
        share = sum(int(m.sum()) for m in found.masks.values()) / (96 + 192 + 36)
        trained = dict(found.trained.named_parameters())
        alive = sum(int((trained[n] != 0).sum()) for n in found.masks) / (96 + 192 + 36)
        assert share == pytest.approx(min(0.4, alive), abs=0.01)
        for name, p in found.model.named_parameters():
            if name in found.masks:
                assert not bool((p[~found.masks[name]] != 0).any())
    assert found.model(x).shape == (16, 3)
    assert type(found.model) is type(perceptron())


@pytest.mark.parametrize(
    "method", ["halo", "increg", "greg2", "gates", "l0", "group-halo", "grda", "group-grda"]
)
def test_interrupted_and_resumed_the_result_has_the_same_bits(method, batches, graph, tmp_path):
    entry = PENALTIES[method]

    def go(hooks=(), **more):
        return train_and_cut(
            perceptron(),
            batches,
            method=method,
            settings=entry.config(**FAST.get(method, {})),
            config=TrainConfig(epochs=4, lr=0.05),
            cut=Cut() if entry.kind == "gates" else Cut(keep=0.4),
            graph=graph if entry.groups else None,
            hooks=hooks,
            **more,
        )

    def stop(moment, run):
        if moment is Moment.STEP_OPENS and run.step == 15:  # in the third epoch
            raise KeyboardInterrupt

    whole = go()
    with pytest.raises(KeyboardInterrupt):
        go(hooks=[stop], folder=tmp_path)
    rest = go(folder=tmp_path, resume=True)
    assert rest.history == whole.history
    assert rest.plan == whole.plan
    assert whole.masks.keys() == rest.masks.keys()
    assert all(torch.equal(m, rest.masks[n]) for n, m in whole.masks.items())
    for a, b in ((whole.trained, rest.trained), (whole.model, rest.model)):
        assert all(torch.equal(v, b.state_dict()[n]) for n, v in a.state_dict().items())


@pytest.mark.parametrize(
    ("first", "then", "text"),
    [
        ({"method": "l1", "begin": 1}, {"method": "l1", "begin": 2}, "same begin and ramp"),
        ({"method": "l1", "ramp": 1}, {"method": "l1"}, "same begin and ramp"),
        ({"method": "l1"}, {"method": "l1", "settings": L1(strength=0.1)}, "same settings"),
        ({"method": "l1"}, {"method": "l1", "scope": Scope(first=False)}, "same exclusions"),
        ({"method": "l1"}, {"method": "halo"}, "same settings"),
        ({"method": "group-grda"}, {"method": "group-grda", "settings": GroupGrda(scale="one")}, "same settings"),
        ({"method": "group-grda"}, {"method": "group-grda", "scope": Scope(first=False)}, "parameter group"),
        ({"method": "grda"}, {"method": "grda", "scope": Scope(exclude=("0.weight",))}, "parameter group"),
        ({"method": "grda", "scope": Scope(exclude=("0.weight", "4.weight"))},
         {"method": "grda", "scope": Scope(exclude=("2.weight", "4.weight"))}, "same exclusions"),
    ],
)  # fmt: skip
def test_a_training_is_resumed_as_it_was_begun(first, then, text, batches, graph, tmp_path):
    def stop(moment, run):
        if moment is Moment.STEP_OPENS and run.step == 9:  # in the second epoch
            raise KeyboardInterrupt

    same = {"config": TrainConfig(epochs=3, lr=0.01), "graph": graph, "folder": tmp_path}
    with pytest.raises(KeyboardInterrupt):
        train_and_cut(perceptron(), batches, hooks=[stop], **first, **same)
    with pytest.raises(StoreError, match=text):
        train_and_cut(perceptron(), batches, resume=True, **then, **same)


def test_single_zeros_in_the_units_that_stay_are_masks(batches, graph):
    found = train_and_cut(
        perceptron(),
        batches,
        method="sparse-group-lasso",
        settings=SparseGroupLasso(strength=0.01, mix=0.7),
        config=TrainConfig(epochs=6, lr=0.1),
        cut=Cut(keep=0.6),
        graph=graph,
    )
    small = dict(found.model.named_parameters())
    wide = dict(found.trained.named_parameters())
    assert set(found.masks) == set(found.whole) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    for name, mask in found.masks.items():
        assert torch.equal(mask, small[name] != 0)
        assert found.whole[name].shape == wide[name].shape
        assert int(found.whole[name].sum()) == int(mask.sum())
        assert bool((wide[name][found.whole[name]] != 0).all())
    assert not all(bool(m.all()) for m in found.masks.values())
    gone = sorted(set(range(16)) - set(found.plan.keep["0"]))
    assert gone
    assert not bool(found.whole["0.weight"][gone].any() | found.whole["2.weight"][:, gone].any())
    assert found.share == pytest.approx(16 / 28)  # of the units, as the sweep counts


def test_slimming_a_network_with_norms_takes_its_channels(batches):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
    found = train_and_cut(
        model,
        batches,
        method="bn-slimming",
        config=TrainConfig(epochs=2, lr=0.05),
        cut=Cut(budget=Budget(macs=0.5)),
        example=(batches[0][0],),
    )
    scale = found.trained[1].weight.abs()
    assert set(found.plan.keep["0"]) == set(scale.topk(8).indices.tolist())
    assert found.model[0].weight.shape == (8, 6)


def test_notes_say_what_was_not_done(batches, graph):
    config = TrainConfig(epochs=1, lr=0.01)
    weak = train_and_cut(
        perceptron(), batches, settings=Halo(xi=1e-8, psi=1e-8, rate=1.0), config=config
    )
    assert "does nothing with these settings" in weak.notes[0]
    assert "nothing was cut" in weak.notes[1]
    late = train_and_cut(
        perceptron(), batches, method="increg", settings=IncReg(), config=config, graph=graph
    )
    assert "IncReg does nothing with these settings" in late.notes[0]
    assert "had not come to its end" in late.notes[1]
    assert late.notes[1].endswith(
        "units that it had not removed by then stay unless the cut takes them"
    )
    assert "no unit was removed" in late.notes[2]
    greg = PENALTIES["greg1"].config(step=0.2, every=1, hold=1000)
    held = train_and_cut(
        perceptron(), batches, method="greg1", settings=greg, config=config, graph=graph
    )
    assert held.notes[0].endswith("what it had chosen by then is cut as it is")
    assert [len(k) for k in held.plan.keep.values()] == [3, 2]
    thin = train_and_cut(perceptron(), batches, method="l1", config=config, cut=Cut(keep=0.005))
    assert any("left nothing in" in note for note in thin.notes)
    assert thin.kept["0.weight"] < 0.05


class Mixed(nn.Module):
    """Groups behind a batch norm, behind none, behind a norm over the channels, and one that may not be cut."""

    def __init__(self):
        super().__init__()
        self.a, self.norm = nn.Linear(6, 8), nn.BatchNorm1d(8)
        self.b, self.c, self.over = nn.Linear(8, 10), nn.Linear(10, 12), nn.LayerNorm(12)
        self.d, self.e = nn.Linear(12, 5), nn.Linear(5, 3)

    def forward(self, x):
        x = torch.relu(self.norm(self.a(x)))
        x = self.over(torch.relu(self.c(torch.relu(self.b(x)))))
        return self.e(torch.cumsum(self.d(x), dim=1))


@pytest.mark.parametrize("method", ["bn-slimming", "gates", "l0", "group-lasso", "group-grda"])
def test_groups_that_a_method_leaves_alone_are_noted(method, batches):
    torch.manual_seed(0)
    model = Mixed()
    graph = trace(model.eval(), (batches[0][0],), norms="cut")
    assert {g.name: g.reason is None for g in graph.groups}["d"] is False
    found = train_and_cut(
        model.train(), batches, method=method, config=TrainConfig(epochs=1, lr=0.01), graph=graph
    )
    (note,) = [text for text in found.notes if "left alone" in text]
    assert "d (" in note
    assert "cumsum" in note
    assert ("b, c (no batch norm follows it)" in note) == (method == "bn-slimming")
    assert ("c (a norm runs over its channels" in note) == (method in ("gates", "l0"))
    assert "a" in found.plan.keep


def test_calls_that_make_no_sense_are_refused(batches, graph):
    with pytest.raises(InputError, match="unknown method 'hallo'; known are halo, l1"):
        train_and_cut(perceptron(), batches, method="hallo")
    with pytest.raises(InputError, match="settings of halo are a Halo, found a L1"):
        train_and_cut(perceptron(), batches, settings=L1())
    with pytest.raises(InputError, match="gates decides itself"):
        train_and_cut(perceptron(), batches, method="gates", settings=Gates(), cut=Cut(keep=0.5))
    with pytest.raises(InputError, match="group-lasso acts on groups"):
        train_and_cut(perceptron(), batches, method="group-lasso", settings=GroupLasso())
    config = TrainConfig(epochs=1)
    with pytest.raises(InputError, match="not both"):
        train_and_cut(
            perceptron(),
            batches,
            method="l1",
            config=config,
            cut=Cut(keep=0.5, budget=Budget(params=0.5)),
        )
    with pytest.raises(InputError, match="counted on an example"):
        train_and_cut(
            perceptron(), batches, method="l1", config=config, cut=Cut(budget=Budget(macs=0.5))
        )
