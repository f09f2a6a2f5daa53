"""The loop: it is the bare loop when nothing hangs on it, and its hooks open and close in order."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sprig.core.errors import DivergenceError, InputError
from sprig.training.loop import Run, epoch_seed, first_not_finite, fit
from sprig.training.moments import Moment


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Flatten(),
        nn.Linear(144, 3),
    )


def batches(count=5, seed=1):
    g = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(8, 1, 8, 8, generator=g), torch.randint(0, 3, (8,), generator=g))
        for _ in range(count)
    ]


def cross_entropy(run):
    return F.cross_entropy(run.output, run.target)


def start(model, *, epochs=2, count=5, lr=0.1):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, nesterov=True)
    return Run(model=model, optimizer=optimizer, epochs=epochs, steps_per_epoch=count)


def test_without_hooks_it_is_the_bare_loop_bit_for_bit():
    data = batches()
    ours = net()
    fit(start(ours), data, loss=cross_entropy, schedule=lambda s: 1 / (1 + s), seed=3, clip=0.5)

    bare = net()
    optimizer = torch.optim.SGD(bare.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    step = 0
    bare.train()
    for epoch in range(2):
        torch.manual_seed(epoch_seed(3, epoch))
        for x, y in data:
            optimizer.param_groups[0]["lr"] = 0.1 * (1 / (1 + step))
            loss = F.cross_entropy(bare(x), y)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(bare.parameters(), 0.5)
            optimizer.step()
            step += 1
    for name, tensor in bare.state_dict().items():
        assert torch.equal(tensor, ours.state_dict()[name]), name


def test_the_callers_random_state_is_put_back():
    model = net()
    before = torch.get_rng_state()
    fit(start(model), batches(), loss=cross_entropy, schedule=lambda s: 1.0)
    assert torch.equal(before, torch.get_rng_state())


def test_what_opens_first_closes_last():
    calls = []

    def hook(name):
        return lambda moment, run: calls.append((name, moment))

    fit(
        start(net(), epochs=1, count=1),
        batches(1),
        loss=cross_entropy,
        schedule=lambda s: 1.0,
        hooks=(hook("a"), hook("b")),
    )
    moments = list(Moment)
    expected = []
    for moment in moments:
        closes = moment in moments[4:]
        expected += [(n, moment) for n in ("ba" if closes else "ab")]
    assert calls == expected


def test_a_failing_run_is_closed_for_every_hook_that_was_opened():
    calls = []

    def first(moment, run):
        calls.append(moment)

    def second(moment, run):
        if moment is Moment.RUN_OPENS:
            raise RuntimeError("no")
        calls.append("never")

    with pytest.raises(RuntimeError, match="no"):
        fit(
            start(net()),
            batches(),
            loss=cross_entropy,
            schedule=lambda s: 1.0,
            hooks=(first, second),
        )
    assert calls == [Moment.RUN_OPENS, Moment.RUN_CLOSES]


def test_a_hook_may_replace_the_loss_change_gradients_and_stop():
    model = net()
    before = {k: v.clone() for k, v in model.named_parameters()}

    def hook(moment, run):
        if moment is Moment.LOSS_READY:
            run.loss = run.loss * 0
        if moment is Moment.EPOCH_CLOSES:
            run.stop = True

    run = fit(
        start(model, epochs=5), batches(), loss=cross_entropy, schedule=lambda s: 1.0, hooks=(hook,)
    )
    assert run.epoch == 1
    assert run.step == 5
    for name, value in model.named_parameters():
        assert torch.equal(before[name], value), name


def test_bf16_runs_and_learns_with_float32_weights():
    model = net()
    dtypes = []

    def hook(moment, run):
        if moment is Moment.LOSS_READY:
            dtypes.append(run.output.dtype)

    run = fit(
        start(model, epochs=20, lr=0.05),
        batches(),
        loss=lambda r: F.cross_entropy(r.output.float(), r.target),
        schedule=lambda s: 1.0,
        bf16=True,
        channels_last=True,
        hooks=(hook,),
    )
    assert set(dtypes) == {torch.bfloat16}
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert run.history[-1]["loss"] < 0.7 * run.history[0]["loss"]


def test_divergence_names_the_step_and_the_first_broken_tensor():
    model = net()

    def poison(moment, run):
        if moment is Moment.STEP_OPENS and run.step == 3:
            with torch.no_grad():
                run.model[5].bias[0] = math.nan

    with pytest.raises(DivergenceError, match=r"step 3 .*5\.bias"):
        fit(start(model), batches(), loss=cross_entropy, schedule=lambda s: 1.0, hooks=(poison,))


def test_divergence_of_the_loss_alone_is_told_apart():
    with pytest.raises(DivergenceError, match="all weights are still finite"):
        fit(start(net()), batches(), loss=lambda r: r.output.sum() / 0.0, schedule=lambda s: 1.0)


def test_weights_broken_in_the_last_step_do_not_count_as_an_epoch():
    def poison(moment, run):
        if moment is Moment.STEP_CLOSES and run.step == 5:
            with torch.no_grad():
                run.model[0].weight.fill_(math.inf)

    run = start(net())
    with pytest.raises(DivergenceError, match=r"broken weights; .*0\.weight"):
        fit(run, batches(), loss=cross_entropy, schedule=lambda s: 1.0, hooks=(poison,))
    assert run.epoch == 0
    assert first_not_finite(run.model) == "0.weight"


def test_an_empty_epoch_is_refused():
    with pytest.raises(InputError, match="gave no batch"):
        fit(start(net()), [], loss=cross_entropy, schedule=lambda s: 1.0)


def test_epoch_seeds_differ_between_neighbours():
    seeds = {epoch_seed(s, e) for s in range(20) for e in range(20)}
    assert len(seeds) == 400
    assert all(0 <= s < 2**63 for s in seeds)
