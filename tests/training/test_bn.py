"""Batch-norm re-estimation against mean and variance computed directly over all data."""

import pytest
import torch
from torch import nn

from sprig.core.errors import DivergenceError, InputError
from sprig.training.bn import reestimate_batch_norm


def net():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 5, 3),
        nn.BatchNorm2d(5),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Conv2d(5, 4, 3),
        nn.BatchNorm2d(4),
    )
    model[1].weight.data.uniform_(0.5, 2.0)
    return model


def test_one_layer_over_unequal_batches_equals_all_data_at_once():
    model = net()[:2]
    x = torch.randn(23, 2, 9, 9) * 3 + 1
    assert reestimate_batch_norm(model, [x[:3], (x[3:17], torch.zeros(14)), {"input": x[17:]}])
    inner = model[0](x).double()
    torch.testing.assert_close(
        model[1].running_mean.double(), inner.mean((0, 2, 3)), rtol=1e-5, atol=1e-6
    )
    torch.testing.assert_close(
        model[1].running_var.double(), inner.var((0, 2, 3)), rtol=1e-5, atol=1e-6
    )


def test_a_deep_network_on_one_batch_equals_torchs_own_statistics():
    ours, theirs = net(), net()
    x = torch.randn(16, 2, 9, 9)
    reestimate_batch_norm(ours, [x])
    theirs.eval()
    for norm in (theirs[1], theirs[5]):
        norm.train()
        norm.momentum = 1.0
    theirs(x)
    for i in (1, 5):
        torch.testing.assert_close(
            ours[i].running_mean, theirs[i].running_mean, rtol=1e-4, atol=1e-6
        )
        torch.testing.assert_close(ours[i].running_var, theirs[i].running_var, rtol=1e-4, atol=1e-6)


def test_flags_momentum_and_all_else_stay():
    model = net()
    model[1].eval()
    model[5].momentum = 0.37
    flags = [m.training for m in model.modules()]
    state = {k: v.clone() for k, v in model.state_dict().items()}
    reestimate_batch_norm(model, [torch.randn(8, 2, 9, 9)])
    assert [m.training for m in model.modules()] == flags
    assert model[5].momentum == 0.37
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]) == ("running" not in name), name
    assert not model[1]._forward_pre_hooks


def test_without_batch_norm_nothing_happens():
    assert reestimate_batch_norm(nn.Linear(2, 2), []) is False
    assert reestimate_batch_norm(nn.BatchNorm1d(2, track_running_stats=False), []) is False


def test_a_layer_that_is_not_reached_keeps_its_statistics():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.BatchNorm1d(2), nn.BatchNorm1d(2)

        def forward(self, x):
            return self.used(x)

    model = Half()
    reestimate_batch_norm(model, [torch.randn(8, 2) + 5])
    assert torch.equal(model.unused.running_mean, torch.zeros(2))
    assert (model.used.running_mean > 3).all()


@pytest.mark.parametrize(
    ("data", "error", "match"),
    [
        ([], InputError, "empty"),
        ([torch.randn(1, 2, 3, 3)], InputError, "larger calibration batches"),
        ([torch.full((4, 2, 9, 9), float("nan"))], DivergenceError, "1: its inputs"),
    ],
)
def test_unfit_data_is_refused_and_changes_nothing(data, error, match):
    model = net() if not data or data[0].shape[-1] == 9 else net()[:2]
    state = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(error, match=match):
        reestimate_batch_norm(model, data)
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name
