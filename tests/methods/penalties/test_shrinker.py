"""A penalty in a training: any loop, same bits at strength zero, watched, saved, resumed."""

import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sprig.core.errors import DivergenceError, InputError, StoreError
from sprig.methods.penalties.adaptive_lasso import AdaptiveLasso
from sprig.methods.penalties.halo import Halo
from sprig.methods.penalties.hook import Shrinking
from sprig.methods.penalties.horseshoe import Horseshoe
from sprig.methods.penalties.l1 import L1, Ridge
from sprig.methods.penalties.mcp import Mcp
from sprig.methods.penalties.scad import Scad
from sprig.methods.penalties.scope import Scope, penalised
from sprig.methods.penalties.shrinker import Ramp, Shrinker
from sprig.methods.penalties.sws import Sws
from sprig.training import FinetuneConfig, Moment, finetune

ZERO = [
    L1(strength=0.0),
    L1(strength=0.0, mode="prox"),
    Ridge(strength=0.0),
    Ridge(strength=0.0, mode="prox"),
    Mcp(strength=0.0),
    Mcp(strength=0.0, mode="prox"),
    Scad(strength=0.0),
    Scad(strength=0.0, mode="prox"),
    AdaptiveLasso(strength=0.0),
    AdaptiveLasso(strength=0.0, mode="prox"),
    Horseshoe(strength=0.0),
    Horseshoe(strength=0.0, mode="prox"),
    Sws(xi=0.0),
    Sws(xi=0.0, mode="proximal"),
    Halo(xi=0.0),
    Halo(xi=0.0, mode="closed"),
    Halo(xi=0.0, mode="proximal"),
]


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))


def batches(count=6, seed=1):
    g = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(8, 6, generator=g), torch.randint(0, 3, (8,), generator=g))
        for _ in range(count)
    ]


def own_loop(model, optimizer, *, epochs=2, around=None):
    for _ in range(epochs):
        for x, y in batches():
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            if around is not None:
                around(optimizer)
            else:
                optimizer.step()
    return {k: v.clone() for k, v in model.state_dict().items()}


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)


def same(a, b):
    return all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("penalty", ZERO, ids=lambda p: f"{type(p).__name__}-{p.mode}")
@pytest.mark.parametrize("make", [sgd, lambda m: torch.optim.AdamW(m.parameters(), lr=0.01)])
def test_strength_zero_is_plain_training_bit_for_bit(penalty, make):
    plain = net()
    expected = own_loop(plain, make(plain))
    model = net()
    optimizer = make(model)
    shrinker = Shrinker(model, penalty)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it does nothing is what is tried here
        shrinker.attach(optimizer)
    assert same(own_loop(model, optimizer), expected)


@pytest.mark.parametrize(
    "penalty",
    [Halo(xi=0.01, psi=0.01), Halo(xi=0.01, psi=0.01, mode="proximal"), L1(strength=0.01)],
)
def test_attached_called_by_hand_and_in_our_loop_are_one(penalty):
    model = net()
    optimizer = sgd(model)
    Shrinker(model, penalty).attach(optimizer)
    attached = own_loop(model, optimizer)

    model = net()
    optimizer = sgd(model)
    shrinker = Shrinker(model, penalty)

    def around(optimizer):
        shrinker.before_step(lr=0.1)
        optimizer.step()
        shrinker.after_step(lr=0.1 / (1 - 0.9))

    assert same(own_loop(model, optimizer, around=around), attached)

    config = FinetuneConfig(epochs=2, lr=0.1, weight_decay=0.0, schedule="constant")
    record = finetune(net().train(), batches(), config=config, hooks=[Shrinking(penalty)])
    assert same(record.model.state_dict(), attached)


def test_push_and_prox_rest_at_the_same_weights():
    """With momentum a threshold counts 1 / (1 - m) times, as a gradient does."""
    goal = torch.tensor([[1.0, -0.3, 0.05]])
    ends = []
    for mode in ("push", "prox"):
        layer = nn.Linear(3, 1, bias=False)
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.01, momentum=0.9)
        Shrinker(layer, L1(strength=0.1, mode=mode)).attach(optimizer)
        for _ in range(600):
            optimizer.zero_grad()
            ((layer.weight - goal).square().sum() / 2).backward()
            optimizer.step()
        ends.append(layer.weight.detach())
    wanted = torch.tensor([[0.9, -0.2, 0.0]])
    torch.testing.assert_close(ends[1], wanted, rtol=1e-4, atol=0)
    assert float(ends[1][0, 2]) == 0.0
    torch.testing.assert_close(ends[0], wanted, rtol=1e-3, atol=2e-2)  # zero is only approached


def test_ramp_scales_the_whole_penalty():
    model = net()
    before = {k: v.detach().clone() for k, v in model.named_parameters()}
    shrinker = Shrinker(model, Ridge(strength=1.0), ramp=Ramp(begin=2, length=4))
    pulls = []
    for _ in range(7):
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        shrinker.before_step(lr=0.1)
        pulls.append(float((model[0].weight.grad / before["0.weight"]).mean()))
        shrinker.after_step(lr=0.1)
    assert pulls == pytest.approx([0, 0, 0.25, 0.5, 0.75, 1, 1])
    with pytest.raises(InputError, match="begin is -1"):
        Ramp(begin=-1)
    with pytest.raises(InputError, match="ramp is -1"):
        Shrinking(L1(), ramp=-1)


def test_scope_names_what_is_penalised():
    model = nn.Sequential(nn.Conv1d(2, 3, 1), nn.BatchNorm1d(3), nn.Linear(4, 4), nn.Linear(4, 2))
    assert list(penalised(model)) == ["0.weight", "2.weight", "3.weight"]
    assert list(penalised(model, Scope(first=False, last=False))) == ["2.weight"]
    assert list(penalised(model, Scope(biases=True, exclude=("*.weight",)))) == [
        "0.bias",
        "2.bias",
        "3.bias",
    ]
    assert "1.weight" in penalised(model, Scope(norms=True))
    with pytest.raises(InputError, match="fits no trainable parameter"):
        penalised(model, Scope(exclude=("fc*",)))
    with pytest.raises(InputError, match="nothing is left to penalise"):
        penalised(model, Scope(exclude=("*",)))


def test_the_optimiser_must_fit():
    model = net()
    shrinker = Shrinker(model, L1())
    with pytest.raises(InputError, match="lacks 1 of the 2 penalised"):
        shrinker.attach(torch.optim.SGD(model[0].parameters(), lr=0.1))
    two = [{"params": model[0].parameters()}, {"params": model[3].parameters(), "lr": 0.2}]
    with pytest.raises(InputError, match="different learning rates"):
        shrinker.attach(torch.optim.SGD(two, lr=0.1))
    shrinker.attach(sgd(model))
    with pytest.raises(InputError, match="attached already"):
        shrinker.attach(sgd(model))
    shrinker.detach()
    shrinker.attach(sgd(model))


def test_divergence_says_step_layer_and_advice():
    model = net()
    optimizer = sgd(model)
    Shrinker(model, L1(), watch=2).attach(optimizer)

    calls = []

    def poisoned(optimizer):
        calls.append(optimizer)
        if len(calls) == 2:
            with torch.no_grad():
                model[3].weight[0, 0] = math.nan
        optimizer.step()

    with pytest.raises(
        DivergenceError, match=r"by step 2: 3\.weight is not finite; lower the .*from before"
    ):
        own_loop(model, optimizer, around=poisoned)


@pytest.mark.parametrize(
    ("penalty", "key", "name"),
    [
        (Halo(), "coefficients", r"coefficients of 3\.weight"),
        (Halo(), "velocity", r"velocity of 3\.weight"),
        (AdaptiveLasso(), "factors", r"factors of 3\.weight"),
        (Sws(), "coefficient", "coefficient"),
    ],
)
@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_coefficient_that_is_not_finite_is_found_and_never_saved(penalty, key, name, value):
    """Infinite coefficients switch the penalty off; weights alone would never tell."""
    shrinker = Shrinker(net(), penalty)
    shrinker.look()
    saved = shrinker.state_dict()
    assert saved["names"] == ["0.weight", "3.weight"]
    found = shrinker.state[key]
    (found[1][0, 0] if isinstance(found, list) else found).fill_(value)
    for call in (shrinker.look, shrinker.state_dict):
        with pytest.raises(DivergenceError, match=f"by step 0: {name} is not finite"):
            call()


def test_numbers_that_are_large_but_finite_are_no_divergence():
    shrinker = Shrinker(net(), Halo())
    shrinker.state["velocity"][0].fill_(3e38)
    shrinker.look()


def test_a_diverging_run_keeps_its_checkpoint(tmp_path):
    config = FinetuneConfig(epochs=4, lr=0.1, weight_decay=0.0)

    class Poison:
        def __call__(self, moment, run):
            if moment is Moment.STEP_OPENS and run.step == 15:
                with torch.no_grad():
                    run.model[0].weight.fill_(math.inf)

    with pytest.raises(DivergenceError, match=r"step 15 .*0\.weight"):
        finetune(
            net(),
            batches(),
            config=config,
            hooks=[Shrinking(Halo(xi=0.01, psi=0.01)), Poison()],
            folder=tmp_path,
        )
    rest = finetune(
        net(),
        batches(),
        config=config,
        hooks=[Shrinking(Halo(xi=0.01, psi=0.01))],
        folder=tmp_path,
        resume=True,
    )
    whole = finetune(net(), batches(), config=config, hooks=[Shrinking(Halo(xi=0.01, psi=0.01))])
    assert rest.resumed
    assert same(rest.model.state_dict(), whole.model.state_dict())


@pytest.mark.parametrize(
    "penalty", [Halo(xi=0.01, psi=0.01), Sws(xi=0.01), AdaptiveLasso(strength=0.01)]
)
def test_resumed_coefficients_and_weights_have_the_same_bits(penalty, tmp_path):
    config = FinetuneConfig(epochs=4, lr=0.1, weight_decay=0.0)

    def stop(moment, run):
        if moment is Moment.EPOCH_CLOSES and run.epoch == 2:
            raise KeyboardInterrupt

    whole = Shrinking(penalty)
    straight = finetune(net(), batches(), config=config, hooks=[whole])
    options = {"config": config, "folder": tmp_path, "resume": True}
    with pytest.raises(KeyboardInterrupt):  # hooks close in reverse: this one before the checkpoint
        finetune(net(), batches(), hooks=[Shrinking(penalty), stop], **options)
    rest = Shrinking(penalty)
    record = finetune(net(), batches(), hooks=[rest], **options)
    assert record.resumed
    assert same(record.model.state_dict(), straight.model.state_dict())
    assert record.history == straight.history
    flat = [t for v in whole.shrinker.state.values() for t in (v if isinstance(v, list) else [v])]
    again = [t for v in rest.shrinker.state.values() for t in (v if isinstance(v, list) else [v])]
    assert flat and all(torch.equal(a, b) for a, b in zip(flat, again))


def test_a_state_of_other_settings_is_refused():
    model = net()
    saved = Shrinker(model, Halo()).state_dict()
    with pytest.raises(StoreError, match=r"saved penalty is Halo\(xi=0.0001.*same settings"):
        Shrinker(model, Halo(xi=1e-3)).load_state_dict(saved)
    with pytest.raises(StoreError, match="same exclusions"):
        Shrinker(model, Halo(), scope=Scope(last=False)).load_state_dict(saved)
    with pytest.raises(InputError, match="not at work yet"):
        Shrinking(L1()).state_dict()


def test_statistics_count():
    model = net()
    with torch.no_grad():
        model[0].weight[:8] = 0.0
        model[3].weight[0, 0] = 1e-4
    shrinker = Shrinker(model, Halo(start=0.5))
    found = shrinker.statistics()
    assert found["zeros"] == pytest.approx(48 / 144)
    assert found["tiny"] == pytest.approx(49 / 144, abs=1e-2)
    assert found["coefficient_lowest"] == found["coefficient_highest"] == 0.5
    assert found["penalty"] == pytest.approx(shrinker.value())
    assert Shrinker(model, Sws(start=0.5)).statistics()["coefficient"] == 0.5


def test_an_optimiser_that_computes_gradients_inside_its_step_is_refused():
    layer = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    Shrinker(layer, L1()).attach(optimizer)

    def closure():
        return layer(torch.ones(1, 3)).sum()

    for call in (lambda: optimizer.step(closure), lambda: optimizer.step(closure=closure)):
        with pytest.raises(InputError, match=r"inside step\(closure\)"):
            call()
    optimizer.step(None)
