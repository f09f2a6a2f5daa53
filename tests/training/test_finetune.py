"""Fine-tuning: what it learns from, what it leaves alone, what it refuses."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import log_softmax
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from sprig.core.errors import InputError
from sprig.training import FinetuneConfig, TrainConfig, finetune, train
from sprig.training.config import decay_groups
from sprig.training.distill import kl_loss, squared_loss
from sprig.training.finetune import class_loss, objective
from sprig.training.loop import Run


def net(seed=0, width=16):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 3))


def batches(labels=True):
    g = torch.Generator().manual_seed(1)
    x = torch.randn(96, 6, generator=g)
    y = (x @ torch.randn(6, 3, generator=g)).argmax(1)
    return [(x[i : i + 16], y[i : i + 16]) if labels else x[i : i + 16] for i in range(0, 96, 16)]


def test_it_learns_on_a_copy_and_reports_the_last_epoch():
    model = net().eval()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    data = batches()
    record = finetune(
        model, data, config=FinetuneConfig(epochs=6, lr=0.05, smoothing=0.05), evaluation=data
    )
    assert record.steps == 36
    assert [row["epoch"] for row in record.history] == [1, 2, 3, 4, 5, 6]
    assert record.last["accuracy"] > 0.9
    assert record.last["loss"] < record.history[0]["loss"]
    assert not record.model.training
    assert all(p.grad is None for p in record.model.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_train_is_the_same_loop_with_its_own_settings():
    assert TrainConfig().lr == 0.1
    config = TrainConfig(epochs=2, warmup=0.5)
    ours = train(net(), batches(), config=config).model.state_dict()
    theirs = finetune(net(), batches(), config=config).model.state_dict()
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)
    assert len(train(net(), batches()[:1]).history) == 15


def test_a_teacher_alone_teaches_without_labels():
    teacher, data = net(seed=5, width=32), batches(labels=False)
    config = FinetuneConfig(epochs=30, lr=0.05, temperature=2.0)
    record = finetune(net(), data, config=config, teacher=teacher)
    assert teacher.training
    assert record.last["loss"] < 0.2 * record.history[0]["loss"]
    values = FinetuneConfig(epochs=30, lr=0.02, optimizer="adamw", match="values")
    record = finetune(net(), data, config=values, teacher=teacher)
    assert record.last["loss"] < 0.2 * record.history[0]["loss"]


def test_distillation_equals_its_formula():
    rng = np.random.default_rng(0)
    s, t = rng.normal(size=(2, 9, 4))
    p, q = log_softmax(t / 3, axis=1), log_softmax(s / 3, axis=1)
    expected = 9 * (np.exp(p) * (p - q)).sum(1).mean()
    found = kl_loss(torch.as_tensor(s), torch.as_tensor(t), temperature=3.0)
    assert float(found) == pytest.approx(expected, rel=1e-5)
    assert float(squared_loss(torch.as_tensor(s), torch.as_tensor(t))) == pytest.approx(
        ((s - t) ** 2).sum() / (t**2).sum(), rel=1e-5
    )


def test_labels_and_teacher_are_mixed_by_weight():
    x, y = batches()[0]
    teacher, model = net(seed=5).eval(), net().eval()
    config = FinetuneConfig(distillation=0.25, temperature=2.0, smoothing=0.1)
    run = Run(
        model=model, optimizer=torch.optim.SGD(model.parameters()), epochs=1, steps_per_epoch=1
    )
    run.args, run.target, run.output = (x,), y, model(x)
    expected = 0.75 * F.cross_entropy(model(x), y, label_smoothing=0.1)
    expected = expected + 0.25 * kl_loss(model(x), teacher(x), temperature=2.0)
    found = objective(config, teacher=teacher)(run).detach()
    assert float(found) == pytest.approx(float(expected.detach()), rel=1e-6)
    own = objective(config, criterion=lambda output, target: output.square().mean())
    assert torch.equal(own(run), run.output.square().mean())


def test_classes_are_found_in_sequences_and_maps():
    sequence, maps = torch.randn(2, 5, 3), torch.randn(2, 3, 4, 4)
    y, z = torch.randint(0, 3, (2, 5)), torch.randint(0, 3, (2, 4, 4))
    flat = F.cross_entropy(sequence.reshape(10, 3), y.reshape(10))
    assert float(class_loss(sequence, y, 0.0)) == pytest.approx(float(flat), rel=1e-6)
    assert float(class_loss(maps, z, 0.0)) == pytest.approx(
        float(F.cross_entropy(maps, z)), rel=1e-6
    )
    with pytest.raises(InputError, match="expected class numbers"):
        class_loss(sequence, torch.randn(2, 5), 0.0)
    with pytest.raises(InputError, match="the target is str"):
        class_loss(sequence, "cat", 0.0)


def test_norms_and_biases_are_not_decayed():
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.LayerNorm([2, 4, 4]), nn.Flatten(), nn.Linear(32, 2)
    )
    model[3].weight.requires_grad_(False)
    decayed, free = decay_groups(model, 0.3)
    assert decayed["weight_decay"] == 0.3
    assert free["weight_decay"] == 0.0
    assert [id(p) for p in decayed["params"]] == [id(model[0].weight)]
    assert {id(p) for p in free["params"]} == {
        id(p) for p in (model[0].bias, model[1].weight, model[1].bias, model[3].bias)
    }


class Shuffled:
    """A data object of the kind that knows its epochs."""

    def __init__(self, fixed):
        self.fixed = fixed
        self.asked = []

    def __len__(self):
        return len(self.fixed)

    def epoch(self, n):
        self.asked.append(n)
        return [
            self.fixed[i]
            for i in torch.randperm(len(self.fixed), generator=torch.Generator().manual_seed(n))
        ]


def test_an_epoch_aware_data_object_and_a_sampler_are_told_the_epoch():
    data = Shuffled(batches())
    finetune(net(), data, config=FinetuneConfig(epochs=3))
    assert data.asked == [0, 1, 2]

    class Sampler(torch.utils.data.SequentialSampler):
        def set_epoch(self, n):
            data.asked.append(-n)

    x, y = (torch.cat(t) for t in zip(*batches()))
    rows = TensorDataset(x, y)
    loader = DataLoader(rows, batch_size=32, sampler=Sampler(rows))
    assert finetune(net(), loader, config=FinetuneConfig(epochs=2)).steps == 6
    assert data.asked == [0, 1, 2, 0, -1]


def test_data_without_a_length_is_counted():
    class Endless:
        def __iter__(self):
            return iter(batches())

    assert finetune(net(), Endless()).steps == 6


def test_adamw_and_channels_last():
    record = finetune(
        nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)),
        [(torch.randn(8, 1, 4, 4), torch.arange(8) % 2)],
        config=FinetuneConfig(epochs=2, optimizer="adamw", lr=1e-3, channels_last=True),
    )
    assert record.model[0].weight.is_contiguous()
    assert math.isfinite(record.last["loss"])


@pytest.mark.parametrize(
    "bad",
    [
        {"epochs": 0},
        {"lr": 0.0},
        {"optimizer": "lion"},
        {"momentum": 1.0},
        {"weight_decay": -1.0},
        {"smoothing": 1.0},
        {"schedule": "wave"},
        {"warmup": 2.0},
        {"clip": 0.0},
        {"temperature": 0.0},
        {"distillation": 1.5},
        {"match": "soul"},
        {"milestones": (0,)},
    ],
)
def test_unfit_settings_are_refused_by_name(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        FinetuneConfig(**bad)


def test_unfit_data_and_models_are_refused():
    with pytest.raises(InputError, match="empty"):
        finetune(net(), [])
    with pytest.raises(InputError, match="no labels"):
        finetune(net(), batches(labels=False))
    with pytest.raises(InputError, match="only once"):
        finetune(net(), iter(batches()))
    with pytest.raises(InputError, match="nothing to train"):
        finetune(net().requires_grad_(False), batches())
