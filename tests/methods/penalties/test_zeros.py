"""What becomes of zeros: empty units taken out, and what single zeros are worth on disk and on the clock."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sprig.core.errors import InputError
from sprig.core.tracing import trace
from sprig.methods.penalties.cut import apply_masks, keep_largest
from sprig.methods.penalties.empty import without_empty
from sprig.methods.penalties.storage import calls, stored, timed
from sprig.models.lenet import LeNet300100


def same(model, small, x):
    with torch.no_grad():
        torch.testing.assert_close(small.eval()(x), model.eval()(x), rtol=1e-4, atol=1e-5)


def test_units_that_say_nothing_leave_their_constant_to_the_next_bias():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 6), nn.Sigmoid(), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 2))
    with torch.no_grad():
        net[0].weight[[1, 4]] = 0  # sigmoid(bias) is no zero
        net[2].weight[3] = 0
    x = torch.randn(8, 5)
    found = without_empty(net, trace(net, (x[:2],)), (x[:2],))
    assert found.plan.keep == {"0": (0, 2, 3, 5), "2": (0, 1, 2)}
    assert (found.gone, found.stuck) == (3, 0)
    assert [tuple(m.weight.shape) for m in found.model if isinstance(m, nn.Linear)] == [
        (4, 5), (3, 4), (2, 3),
    ]  # fmt: skip
    same(net, found.model, x)
    assert net[0].weight.shape == (6, 5)  # the user's own is left alone


def test_what_leaves_empties_what_fed_it_alone():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        net[4].weight[:, 2] = 0  # nothing reads unit 2 of the second layer ...
        net[2].weight[:2, 5] = net[2].weight[3, 5] = 0  # ... which alone reads unit 5 of the first
    x = torch.randn(8, 5)
    found = without_empty(net, trace(net, (x[:2],)), (x[:2],))
    assert found.plan.keep == {"0": (0, 1, 2, 3, 4), "2": (0, 1, 3)}
    same(net, found.model, x)


class Convs(nn.Module):
    def __init__(self, *, padding, bias):
        super().__init__()
        self.a, self.norm = nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6)
        self.b, self.after = nn.Conv2d(6, 5, 3, padding=padding, bias=bias), nn.BatchNorm2d(5)
        self.c = nn.Linear(5, 3)

    def forward(self, x):
        x = F.relu(self.norm(self.a(x)))
        return self.c(F.relu(self.after(self.b(x))).mean((2, 3)))


@pytest.mark.parametrize("bias", [True, False])
def test_behind_zero_padding_only_zeros_leave(bias):
    for padding in (0, 1):
        torch.manual_seed(1)
        net = Convs(padding=padding, bias=bias).eval()
        with torch.no_grad():
            for norm in (net.norm, net.after):
                norm.bias.uniform_(-1, 1)
                norm.running_mean.uniform_(-1, 1)
            net.a.weight[[0, 1, 2]] = 0
            net.norm.bias[0], net.norm.bias[1] = 3.0, -3.0  # after the norm: above zero, and below
            net.norm.bias[2] = 3.0
            net.b.weight[:, 2] = 0  # nothing reads it
        x = torch.randn(4, 2, 9, 9)
        found = without_empty(net, trace(net, (x[:2],)), (x[:2],))
        gone = set(range(6)) - set(found.plan.keep["a"])
        assert gone == ({0, 1, 2} if padding == 0 else {1, 2})
        assert found.stuck == padding
        same(net, found.model, x)


def test_a_group_keeps_one_unit_and_parts_are_refused():
    net = nn.Sequential(nn.Linear(5, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
    nn.init.zeros_(net[0].weight)
    x = torch.randn(4, 5)
    graph = trace(net, (x[:2],))
    found = without_empty(net, graph, (x[:2],))
    assert len(found.plan.keep["0"]) == 1
    same(net, found.model, x)
    whole = nn.Sequential(net)
    parts = trace(whole, (x[:2],), modules=["0"])
    with pytest.raises(InputError, match="submodules alone says too little"):
        without_empty(whole, parts, (x[:2],))


def test_lenet_at_high_sparsity_gets_physically_smaller():
    torch.manual_seed(0)
    net = LeNet300100().eval()
    with torch.no_grad():  # rows of very different sizes, as a penalty leaves them
        net.fc1.weight *= torch.linspace(0.01, 1, 300)[:, None] ** 2
    apply_masks(
        net, keep_largest({"fc1.weight": net.fc1.weight, "fc2.weight": net.fc2.weight}, 0.02)
    )
    x = torch.randn(4, 1, 28, 28)
    found = without_empty(net, trace(net, (x[:2],)), (x[:2],))
    assert found.model.fc1.out_features < 250
    assert found.plan.cost["macs"] < 0.8 * 266_200
    same(net, found.model, x)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(7, 5), (3, 7)),
        (nn.Linear(7, 5, bias=False), (2, 4, 7)),
        (nn.Conv2d(3, 4, 3, padding=1, stride=2), (2, 3, 9, 8)),
        (nn.Conv2d(3, 4, (1, 3), dilation=2, bias=False), (1, 3, 9, 9)),
    ],
    ids=str,
)
def test_compressed_rows_compute_the_same(layer, shape):
    with torch.no_grad():
        layer.weight *= torch.rand_like(layer.weight) < 0.3
        x = torch.randn(shape)
        ways = calls(layer, x)
        torch.testing.assert_close(ways["csr"](), ways["dense"](), rtol=1e-4, atol=1e-5)
        assert ways["dense"]().reshape(layer(x).shape).equal(layer(x))
    assert min(timed(ways).values()) > 0


def test_layers_without_compressed_rows_say_so_by_silence():
    x = torch.randn(1, 4, 6, 6)
    assert set(calls(nn.Conv2d(4, 4, 3, groups=2), x)) == {"dense"}
    assert set(calls(nn.Conv2d(4, 4, 3, padding="same"), x)) == {"dense"}


def test_rows_of_storage_name_form_bytes_and_times():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 10))
    masks = keep_largest({n: p for n, p in net.named_parameters() if p.ndim > 1}, 0.03)
    apply_masks(net, masks)
    masks["0.bias"] = torch.ones(40, dtype=torch.bool)
    rows = stored(net, masks, (torch.randn(2, 64),), {})
    assert [row["name"] for row in rows] == ["0.weight", "2.weight", "0.bias"]
    for row in rows[:2]:
        assert row["bytes"][row["form"]] == min(row["bytes"].values())
        assert set(row["microseconds"]) == {"dense", "csr"}
    assert "microseconds" not in rows[2]
    assert net.training
