"""Settings that can do nothing are told before training starts, whatever the network and the loop."""

import warnings

import pytest
import torch
from torch import nn

from sprig.core.tracing import trace
from sprig.methods.penalties.gates import Gates
from sprig.methods.penalties.grda import Grda, GroupGrda, grda_for
from sprig.methods.penalties.greg import GReg1, GReg2
from sprig.methods.penalties.group_halo import GroupHalo
from sprig.methods.penalties.group_lasso import GroupLasso
from sprig.methods.penalties.halo import Halo
from sprig.methods.penalties.idle import path, reach
from sprig.methods.penalties.increg import IncReg
from sprig.methods.penalties.l0 import L0
from sprig.methods.penalties.l1 import L1, Ridge
from sprig.methods.penalties.run import train_and_cut
from sprig.methods.penalties.shrinker import Ramp, Shrinker
from sprig.methods.penalties.sws import Sws
from sprig.models.lenet import LeNet300100
from sprig.models.resnet_small import SmallResNet
from sprig.models.vgg_small import SmallVGG
from sprig.testing.penalised import perceptron
from sprig.training import TrainConfig

PUBLISHED = {
    "lenet": lambda: LeNet300100(),
    "resnet50": lambda: SmallResNet(8, width=16),
    "vgg16": lambda: SmallVGG(),
}


@pytest.fixture(scope="module", params=list(PUBLISHED))
def published(request):
    torch.manual_seed(0)
    return PUBLISHED[request.param]()


def sgd(model, lr=0.1):
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)


@pytest.mark.parametrize("rate", [1.0, 200.0])  # as published, and the default
@pytest.mark.parametrize("steps", [62_560, 125_120, None])
def test_the_published_constants_without_decay_are_told_on_the_published_networks(
    published, rate, steps
):
    weak = Shrinker(published, Halo(xi=1e-8, psi=1e-8, rate=rate), steps=steps)
    with pytest.warns(UserWarning, match="does nothing with these settings.*weight decay on them"):
        weak.attach(sgd(published))
    weak.detach()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for strong in (Halo(xi=1e-8, psi=1e-8, rate=rate, decay=1e-4), Halo(), L1(strength=1e-5)):
            Shrinker(published, strong, steps=steps).attach(sgd(published)).detach()


@pytest.mark.parametrize(
    "penalty",
    [
        L1(strength=1e-6),
        Ridge(strength=1e-5, mode="prox"),
        Halo(xi=1e-6, psi=1e-4, rate=5.0),
        Halo(xi=1e-6, psi=1e-4, rate=5.0, mode="proximal"),
        Halo(xi=1e-6, psi=0.0, decay=1e-3, rate=1.0),
        Halo(xi=1e-6, psi=1e-3, rate=5.0, budget=0.5),
        Halo(xi=1e-6, psi=1e-4, rate=5.0, budget=0.5, square=True),
        Halo(xi=1e-6, psi=1e-5, mode="closed"),
        Halo(xi=1e-5, psi=1e-6, rate=50.0, start=0.5),  # goes up from its start
        Sws(xi=1e-6, psi=1e-3, rate=1.0),
        Sws(xi=1e-6, psi=1e-3, mode="closed"),
    ],
    ids=lambda p: type(p).__name__,
)
def test_what_is_foreseen_is_what_a_training_without_a_loss_loses(penalty):
    layer = nn.Linear(4, 5, bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(0.2 * torch.where(torch.arange(20).reshape(5, 4) % 2 > 0, 1.0, -1.0))
    optimizer = sgd(layer)
    shrinker = Shrinker(layer, penalty, steps=2000)
    said = []
    shrinker.attach(optimizer, tell=said.append)
    foreseen = reach(
        penalty, shrinker.weights, shrinker.state, steps=2000, lr=0.1, boost=1 / (1 - 0.9)
    )
    for _ in range(2000):
        layer.weight.grad = torch.zeros_like(layer.weight)
        optimizer.step()
    lost = 1 - float(layer.weight.detach().abs().mean()) / 0.2
    assert 0 < lost < 0.25
    assert foreseen == pytest.approx(lost, rel=0.12)
    assert len(said) == 1
    assert f"no more than {foreseen:.1%} of their size off the weights" in said[0]


def test_a_path_goes_down_its_slope_and_stops_where_there_is_none():
    straight = path(lambda at: 0.5, start=2.0, least=0.1, length=2.0)
    assert straight[0] == 2.0
    assert straight[200] == pytest.approx(1.5)
    assert min(path(lambda at: 0.5, start=2.0, least=0.1, length=100.0)) == 0.1
    for start in (0.2, 5.0):
        steep = path(lambda at: at - 1 / at**3, start=start, least=1e-3, length=1e5)
        assert steep[1:] == pytest.approx([1.0] * (len(steep) - 1))


@pytest.mark.parametrize(
    ("penalty", "steps", "told"),
    [
        (GroupLasso(strength=1e-8), 1000, True),
        (GroupLasso(strength=1e-3), 1000, False),
        (GroupHalo(xi=1e-8, psi=1e-8), 9000, True),
        (GroupHalo(), 9000, False),
        (IncReg(step=1e-5, ceiling=1.0), 100, True),
        (IncReg(step=1e-2, ceiling=1.0), 100, False),
        (IncReg(keep=1.0, step=1e-2), 100, True),  # nothing is to leave
        (GReg1(step=1e-4, every=10), 100, True),
        (GReg1(step=1e-1, every=10), 100, False),
        (GReg1(step=1e-1, every=10, keep=1.0), 100, True),
        (GReg2(step=1e-1, every=10), 100, True),  # never comes to its choice
        (GReg2(step=1e-1, every=10, probe=1e-2), 1000, False),
        (GReg2(step=1e-1, every=10, probe=0.0), 1000, True),
        (Gates(strength=1e-6), 1000, True),
        (Gates(), 1000, False),
        (L0(strength=1e-7), 1000, True),
        (L0(strength=1e-2), 1000, False),
    ],
    ids=str,
)
def test_penalties_on_groups_and_gates_are_told(penalty, steps, told, graph):
    model = penalty.gated(perceptron(), graph) if hasattr(penalty, "gated") else perceptron()
    shrinker = Shrinker(model, penalty, graph=graph, steps=steps)
    said = []
    shrinker.attach(sgd(model), tell=said.append)
    assert bool(said) is told
    if told:
        assert f"{type(penalty).__name__} does nothing with these settings" in said[0]


def test_a_penalty_that_never_begins_is_told():
    model = perceptron()
    said = []
    for begin in (0, 100):
        shrinker = Shrinker(model, L1(strength=0.1), ramp=Ramp(begin=begin), steps=100)
        shrinker.attach(sgd(model), tell=said.append)
    assert len(said) == 1
    assert "in 0 steps" in said[0]


def test_the_rate_is_that_which_a_schedule_comes_to():
    model = perceptron()
    optimizer = sgd(model)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / 10))
    assert optimizer.param_groups[0]["lr"] == 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Shrinker(model, L1(), steps=1000).attach(optimizer)
    cycle = sgd(model)
    torch.optim.lr_scheduler.OneCycleLR(cycle, max_lr=0.1, total_steps=1000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Shrinker(model, L1(strength=3e-4), steps=1000).attach(cycle)


def test_a_threshold_that_stays_below_all_weights_is_told(graph):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(32, 6, generator=generator)
    batches = [(x, x[:, :3].argmax(1))] * 4
    for method, config in (("grda", Grda), ("group-grda", GroupGrda)):
        notes = []
        for c in (1e-6, 5.0):
            found = train_and_cut(
                perceptron(),
                batches,
                method=method,
                settings=config(c=c),
                config=TrainConfig(epochs=2, lr=0.05),
                graph=graph if method == "group-grda" else None,
            )
            notes.append([n for n in found.notes if "its threshold comes to" in n])
        assert [len(n) for n in notes] == [1, 0]
        closed = 1e-6 * 0.05**0.5 * (8 * 0.05) ** 0.51
        assert f"in 8 steps its threshold comes to {closed:.1e}" in notes[0][0]
    assert grda_for(perceptron(), Grda(c=0.0), lr=0.1).idle(1000) is not None


@pytest.mark.parametrize("make", [torch.optim.AdamW, torch.optim.RMSprop])
def test_an_optimiser_that_divides_by_the_gradients_size_is_told(make, graph):
    model = perceptron()

    def said(penalty, optimizer=None):
        found = []
        shrinker = Shrinker(model, penalty, graph=graph)
        optimizer = make(model.parameters(), lr=1e-3) if optimizer is None else optimizer
        shrinker.attach(optimizer, tell=found.append).detach()
        return found

    (halo,) = said(Halo())
    assert halo.startswith(f"{make.__name__} divides a gradient by its size, and the pull of Halo")
    assert halo.endswith("take mode=proximal, or SGD")
    assert said(L1())[0].endswith("take mode=prox, or SGD")
    assert said(GReg1(step=1.0, hold=1))[0].endswith("; take SGD")
    assert (
        said(Halo(xi=1e-2, mode="proximal"))
        == said(L1(mode="prox"))
        == said(GroupLasso(strength=1e-2))
        == []
    )
    assert said(Halo(), sgd(model)) == []
    with pytest.warns(UserWarning, match="divides a gradient by its size"):
        Shrinker(model, Halo()).attach(make(model.parameters(), lr=1e-3))


def test_training_with_adamw_says_what_becomes_of_a_push():
    x = torch.randn(16, 6, generator=torch.Generator().manual_seed(1))
    found = train_and_cut(
        perceptron(), [(x, x[:, :3].argmax(1))] * 4, config=TrainConfig(epochs=1, optimizer="adamw")
    )
    assert "AdamW divides a gradient by its size" in found.notes[0]
    gates = Gates().gated(perceptron(), trace(perceptron().eval(), (x[:2],)))
    Shrinker(gates, Gates()).attach(
        torch.optim.Adam(gates.parameters())
    )  # as such gates are trained
