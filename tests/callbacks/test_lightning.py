"""With the real Lightning: a masked network stays masked, a shrunk one trains, is saved and comes back."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("lightning")

import lightning.pytorch as lightning

import sprig
from sprig.callbacks.lightning import KeepMasks, Shrinks
from sprig.methods.penalties.halo import Halo
from sprig.methods.penalties.shrinker import Shrinker

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
]
X = torch.randn(24, 5, generator=torch.Generator().manual_seed(1))


def net() -> nn.Sequential:
    """Sigmoids are not zero at zero: the zeros of a mask get gradients."""
    return nn.Sequential(
        nn.Linear(5, 12), nn.Sigmoid(), nn.Linear(12, 8), nn.Sigmoid(), nn.Linear(8, 3)
    )


class Lit(lightning.LightningModule):
    def __init__(self, net: nn.Module, momentum: float | None = None) -> None:
        super().__init__()
        self.net, self.momentum = net, momentum

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, index: int) -> Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        if self.momentum is not None:
            return torch.optim.SGD(self.parameters(), lr=0.05, momentum=self.momentum)
        return torch.optim.Adam(self.parameters(), lr=0.02, weight_decay=0.01)


def planned(model: nn.Module) -> tuple[sprig.Plan, sprig.Graph]:
    graph = sprig.trace(model, (X[:2],))
    return sprig.Plan(
        {"0": (0, 2, 5, 11), "2": (1, 6)}, {"0": 12, "2": 8}, graph.fingerprint
    ), graph


def train(
    module: Any, folder: Path, callbacks: list[Any], *, start: Path | None = None, **more: Any
) -> Any:
    data = torch.utils.data.TensorDataset(X, torch.arange(24) % 3)
    trainer = lightning.Trainer(
        **{"max_epochs": 2, "enable_checkpointing": False, **more}, accelerator="cpu", devices=1, logger=False,
        enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=str(folder), callbacks=callbacks,
        log_every_n_steps=1,
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=8), ckpt_path=start)
    return trainer


def alive(model: nn.Module) -> list[list[int]]:
    """Which columns of the consumers have any weight."""
    return [model[i].weight.any(0).nonzero().flatten().tolist() for i in (2, 4)]  # type: ignore[index]


def test_a_masked_network_stays_masked(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = net()
    plan, graph = planned(model)
    loose = Lit(sprig.mask(model, plan, graph))
    train(loose, tmp_path, [])
    assert alive(loose.net) == [list(range(12)), list(range(8))]  # or the test could not fail
    for steps in (1, 2):  # also where several batches make one step
        held = Lit(sprig.mask(model, plan, graph))
        before = held(X).detach()
        keep = KeepMasks(plan, graph, network="net")
        train(held, tmp_path, [keep], accumulate_grad_batches=steps)
        assert alive(held.net) == [[0, 2, 5, 11], [1, 6]]
        assert (held(X) - before).abs().max() > 1e-3
    small = sprig.shrink(held.net, plan, graph)
    with torch.no_grad():
        torch.testing.assert_close(small(X), held(X))


def test_a_lightning_module_that_was_traced_itself(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = Lit(net())
    graph = sprig.trace(whole, (X[:2],))
    plan = sprig.Plan({"net.2": (1, 6)}, {"net.2": 8}, graph.fingerprint)
    train(whole, tmp_path, [KeepMasks(plan, graph)])
    assert alive(whole.net)[1] == [1, 6]
    assert sprig.shrink(whole, plan, graph).net[2].out_features == 2


def test_a_shrunk_network_trains_and_comes_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = net()
    plan, graph = planned(model)
    module = Lit(sprig.shrink(model, plan, graph))
    before = module(X).detach()
    trainer = train(module, tmp_path, [])
    assert (module(X) - before).abs().max() > 1e-3
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    fresh = sprig.shrink(net(), plan, graph)
    back = Lit.load_from_checkpoint(tmp_path / "last.ckpt", net=fresh, weights_only=True)
    torch.testing.assert_close(back(X), module(X))
    assert back.net[0].out_features == 4


def test_a_wrong_network_is_refused(tmp_path: Path) -> None:
    model = net()
    plan, graph = planned(model)
    with pytest.raises(sprig.InputError, match="Lit has no network 'body'; it has net"):
        train(Lit(model), tmp_path, [KeepMasks(plan, graph, network="body")])
    small = Lit(sprig.shrink(model, plan, graph))
    with pytest.raises(sprig.PlanError, match="use the model that was traced"):
        train(small, tmp_path, [KeepMasks(plan, graph, network="net")])


def test_without_lightning_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from sprig.callbacks import lightning as ours

    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    spec = importlib.util.spec_from_file_location("bare_lightning", ours.__file__)
    assert spec is not None and spec.loader is not None
    bare = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bare)
    model = net()
    plan, graph = planned(model)
    with pytest.raises(sprig.InputError, match=r"pip install torch-sprig\[lightning\]"):
        bare.KeepMasks(plan, graph)
    with pytest.raises(sprig.InputError, match=r"pip install torch-sprig\[lightning\]"):
        bare.Shrinks(lambda net: net)


def halo(mode: str) -> Shrinks:
    settings = Halo(xi=1e-2, psi=1e-2, mode=mode, rate=20.0)  # type: ignore[arg-type]
    return Shrinks(lambda net: Shrinker(net, settings, steps=12), network="net")


def lit() -> Lit:
    torch.manual_seed(0)
    return Lit(net(), momentum=0.9)


@pytest.mark.parametrize("mode", ["joint", "proximal"])
def test_a_penalty_acts_as_in_a_loop_of_ones_own(mode: str, tmp_path: Path) -> None:
    module, callback = lit(), halo(mode)
    train(module, tmp_path, [callback])
    twin = lit().net
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.05, momentum=0.9)
    shrinker = Shrinker(twin, Halo(xi=1e-2, psi=1e-2, mode=mode, rate=20.0))  # type: ignore[arg-type]
    shrinker.attach(optimizer)
    for _ in range(2):
        for x, y in zip(X.split(8), (torch.arange(24) % 3).split(8)):
            optimizer.zero_grad()
            nn.functional.cross_entropy(twin(x), y).backward()
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(module.net.parameters(), twin.parameters()))
    for ours, theirs in zip(
        callback.shrinker.state["coefficients"], shrinker.state["coefficients"]
    ):
        assert torch.equal(ours, theirs)
        assert bool((ours != 1.0).any())


def test_a_resumed_penalty_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole, callback = lit(), halo("proximal")
    train(whole, tmp_path, [callback], max_epochs=4)
    half = lit()
    train(half, tmp_path, [halo("proximal")], max_epochs=2).save_checkpoint(tmp_path / "half.ckpt")
    rest, again = lit(), halo("proximal")
    train(rest, tmp_path, [again], max_epochs=4, start=tmp_path / "half.ckpt")
    fresh = lit()  # without the penalty's state it would end elsewhere, or the test could not fail
    stranger = halo("proximal")
    stranger.load_state_dict = lambda state: None  # type: ignore[method-assign]
    train(fresh, tmp_path, [stranger], max_epochs=4, start=tmp_path / "half.ckpt")
    assert all(torch.equal(a, b) for a, b in zip(whole.net.parameters(), rest.net.parameters()))
    assert again.shrinker.step == callback.shrinker.step == 12
    for a, b in zip(callback.shrinker.state["velocity"], again.shrinker.state["velocity"]):
        assert torch.equal(a, b)
    assert not torch.equal(fresh.net[0].weight, whole.net[0].weight)  # type: ignore[index]


def test_what_can_do_nothing_is_told(tmp_path: Path) -> None:
    """With the length of this training, unless the penalty has one of its own."""
    callback = Shrinks(lambda net: Shrinker(net, Halo(xi=1e-4, psi=1e-4)), network="net")
    with pytest.warns(UserWarning, match="Halo does nothing with these settings: in 6 steps"):
        train(lit(), tmp_path, [callback])
    adam = Lit(net())  # with Adam
    with pytest.warns(UserWarning, match="Adam divides a gradient by its size"):
        train(adam, tmp_path, [halo("joint")])


def test_what_is_not_finite_is_never_saved(tmp_path: Path) -> None:
    class Poison(lightning.Callback):
        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            if trainer.global_step == 6:  # the last of the second epoch
                callback.shrinker.state["coefficients"][0].fill_(float("inf"))

    callback = halo("joint")
    keep = lightning.callbacks.ModelCheckpoint(
        dirpath=tmp_path / "kept", save_top_k=-1, filename="{epoch}"
    )
    with pytest.raises(sprig.core.errors.DivergenceError, match=r"coefficients of 0\.weight"):
        train(lit(), tmp_path, [Poison(), callback, keep], enable_checkpointing=True)
    assert [p.name for p in (tmp_path / "kept").iterdir()] == ["epoch=0.ckpt"]


def test_single_weights_stay_masked_and_their_masks_are_resumed(tmp_path: Path) -> None:
    module = lit()
    masks = {"0.weight": module.net[0].weight.detach().abs() > 0.2}  # type: ignore[index]
    keep = KeepMasks(masks, network="net")
    trainer = train(module, tmp_path, [keep])
    assert torch.equal(module.net[0].weight != 0, masks["0.weight"])  # type: ignore[index]
    trainer.save_checkpoint(tmp_path / "masked.ckpt")
    rest = lit()
    later = KeepMasks({"0.weight": torch.ones(12, 5, dtype=torch.bool)}, network="net")
    train(rest, tmp_path, [later], max_epochs=3, start=tmp_path / "masked.ckpt")
    assert torch.equal(rest.net[0].weight != 0, masks["0.weight"])  # type: ignore[index]
    with pytest.raises(sprig.InputError, match="a plan speaks of a graph"):
        KeepMasks(sprig.Plan({}, {}, "x"))


def test_several_optimizers_are_refused(tmp_path: Path) -> None:
    callback = halo("joint")

    class Two:
        optimizers = (1, 2)

    with pytest.raises(sprig.InputError, match="training has 2 optimizers"):
        callback.on_train_start(Two(), lit())
