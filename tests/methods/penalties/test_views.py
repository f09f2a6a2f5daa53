"""Views of a shrunk network against independent counts."""

import numpy as np
import pytest
import torch
from torch import nn

from sprig.core.tracing import trace
from sprig.methods.penalties.ends import alive_leave
from sprig.methods.penalties.group_halo import GroupHalo
from sprig.methods.penalties.group_lasso import GroupLasso
from sprig.methods.penalties.halo import Halo
from sprig.methods.penalties.l1 import L1
from sprig.methods.penalties.run import Cut, train_and_cut
from sprig.methods.penalties.shrinker import Shrinker
from sprig.methods.penalties.views import SHARES, law, rank, spectra, spectrum, survival, sweep
from sprig.training import TrainConfig, reestimate_batch_norm


def test_rows_that_are_empty_are_counted():
    mask = torch.ones(4, 2, 3, 3, dtype=torch.bool)
    mask[1] = mask[3, 0] = False
    (row,) = survival({"conv.weight": mask})
    assert (row["rows"], row["empty"], row["weights"]) == (4, 1, 72)
    assert row["kept"] == pytest.approx(1 - 27 / 72)


def test_the_law_has_sizes_coefficients_and_the_formula():
    torch.manual_seed(0)
    net = nn.Linear(30, 20)
    rows = law(Shrinker(net, Halo(xi=1e-3, psi=4e-3, mode="closed", floor=1e-6)))
    assert len(rows) == 240
    sizes = [row["size"] for row in rows]
    assert sizes == sorted(sizes)
    assert sizes[-1] == float(net.weight.detach().abs().max())
    for row in rows:
        assert row["formula"] == pytest.approx((0.5 * row["size"]) ** (1 / 3), rel=1e-5)
        assert row["coefficient"] == pytest.approx(row["formula"], rel=1e-5)
    free = law(Shrinker(net, Halo(budget=0.5)))
    assert "formula" not in free[0]
    assert free[0]["coefficient"] == 1.0
    assert law(Shrinker(net, L1())) == ()
    nn.init.zeros_(net.weight)
    assert law(Shrinker(net, Halo())) == ()


def test_the_law_of_units_speaks_of_their_root_mean_squares():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    graph = trace(net, (torch.randn(2, 3),))
    rows = law(Shrinker(net, GroupHalo(), graph=graph))
    rows_of = torch.cat([net[0].weight, net[0].bias[:, None]], 1)
    expected = rows_of.square().mean(1).sqrt().sort().values
    torch.testing.assert_close(torch.tensor([r["size"] for r in rows]), expected)


def test_spectra_are_those_of_numpys_covariance():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(45, 6))
    batches = [torch.randn(16, 2, 5, 5) for _ in range(3)]
    found = spectrum(net, batches)
    with torch.no_grad():
        maps = torch.cat([net[0](x) for x in batches])
        last = torch.cat([net(x) for x in batches])
    rows = maps.movedim(1, 3).reshape(-1, 5)  # all 9 positions: fewer than are sampled
    for values, seen in ((found["0"], rows), (found["3"], last)):
        expected = np.linalg.eigvalsh(np.cov(seen.numpy().T.astype(float), bias=True))[::-1]
        np.testing.assert_allclose(values.numpy(), expected / expected.sum(), atol=1e-9)
    assert net.training
    nn.init.zeros_(net[3].weight)
    assert set(spectrum(net, batches)) == {"0"}  # a constant has no spectrum


def test_a_network_of_low_rank_is_seen_to_be_so():
    torch.manual_seed(0)
    net = nn.Linear(20, 12)
    thin = nn.Linear(20, 12)
    with torch.no_grad():
        thin.weight.copy_(torch.randn(12, 2) @ torch.randn(2, 20))
    rows = spectra({"before": net, "after": thin}, [torch.randn(200, 20)])
    assert [(r["state"], r["width"]) for r in rows] == [("before", 12), ("after", 12)]
    assert rows[0]["rank"] > 8
    assert rows[1]["rank"] == 2
    assert rank(torch.tensor([1.0])) == 1


def test_a_sweep_cuts_the_trained_network_anew_each_time():
    asked = []

    def again(share):
        asked.append(share)
        return nn.Identity()

    rows = sweep(again, lambda model: 0.25, shares=(0.5, 0.1))
    assert asked == [0.5, 0.1]
    assert rows == [{"kept": 0.5, "quality": 0.25}, {"kept": 0.1, "quality": 0.25}]


def normed():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 8), nn.BatchNorm1d(8),
                         nn.ReLU(), nn.Linear(8, 3))  # fmt: skip


@pytest.fixture(scope="module")
def batches():
    g = torch.Generator().manual_seed(1)
    xs = [torch.randn(16, 6, generator=g) for _ in range(6)]
    return [(x, x[:, :3].argmax(1)) for x in xs]


def cut(batches, **more):
    return train_and_cut(
        normed(),
        batches,
        method="group-lasso",
        settings=GroupLasso(strength=1e-3),
        config=TrainConfig(epochs=2, lr=0.05),
        cut=Cut(keep=0.5, **more),
        example=(batches[0][0],),
    )


def test_a_sweep_leaves_out_shares_that_would_leave_a_layer_with_nothing(batches):
    found = train_and_cut(
        normed(), batches, method="l1", config=TrainConfig(epochs=1, lr=0.05),
        cut=Cut(keep=0.5, per_layer=True),
    )  # fmt: skip
    rows = sweep(found.again, lambda model: 0.5)
    assert [row["kept"] for row in rows] == [s for s in SHARES if int(24 * s) > 0]


def test_statistics_of_batch_norms_are_taken_anew_after_a_cut_that_costs(batches):
    found, bare = cut(batches), cut(batches, batch_norm=False)
    kept = list(found.plan.keep["3"])
    assert torch.equal(bare.model[4].running_mean, found.trained[4].running_mean[kept])
    assert not torch.equal(found.model[4].running_mean, bare.model[4].running_mean)
    assert torch.equal(found.model[3].weight, bare.model[3].weight)
    reestimate_batch_norm(bare.model, batches)
    for name, tensor in bare.model.state_dict().items():
        torch.testing.assert_close(found.model.state_dict()[name], tensor)
    other = found.again(0.5)  # the same cut by hand
    assert all(torch.equal(t, other.state_dict()[n]) for n, t in found.model.state_dict().items())
    assert found.again(0.9)[0].out_features > found.model[0].out_features


def test_statistics_are_taken_anew_after_masks_that_cost_too(batches):
    def masked(**more):
        return train_and_cut(
            normed(), batches, method="l1", config=TrainConfig(epochs=2, lr=0.05), cut=Cut(**more)
        )

    found, bare = masked(keep=0.3), masked(keep=0.3, batch_norm=False)
    state, left = found.model.state_dict(), bare.model.state_dict()
    trained = found.trained.state_dict()
    for name in state:
        if "running" in name:
            assert torch.equal(left[name], trained[name])
        elif "num_batches" not in name:
            assert torch.equal(state[name], left[name])
    assert any("running" in n and not torch.equal(t, left[n]) for n, t in state.items())
    reestimate_batch_norm(bare.model, batches)
    for name, tensor in bare.model.state_dict().items():
        torch.testing.assert_close(state[name], tensor)
    whole = masked(keep=1.0)
    same = whole.model.state_dict()
    assert all(torch.equal(t, same[n]) for n, t in whole.trained.state_dict().items())


def test_where_only_zeros_leave_nothing_is_touched(batches):
    net = normed()
    graph = trace(net.eval(), (batches[0][0],))
    found = cut(batches)
    assert alive_leave(found.trained, found.plan, graph)
    with torch.no_grad():
        for tensor in (net[0].weight, net[0].bias, net[1].weight, net[1].bias):
            tensor[list(set(range(16)) - set(found.plan.keep["0"]))] = 0
        for tensor in (net[3].weight, net[3].bias, net[4].weight, net[4].bias):
            tensor[list(set(range(8)) - set(found.plan.keep["3"]))] = 0
    assert not alive_leave(net, found.plan, graph)
