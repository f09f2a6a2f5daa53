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
from sprig.callbacks.lightning import KeepMasks

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
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, index: int) -> Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.02, weight_decay=0.01)


def planned(model: nn.Module) -> tuple[sprig.Plan, sprig.Graph]:
    graph = sprig.trace(model, (X[:2],))
    return sprig.Plan(
        {"0": (0, 2, 5, 11), "2": (1, 6)}, {"0": 12, "2": 8}, graph.fingerprint
    ), graph


def train(module: Any, folder: Path, callbacks: list[Any], **more: Any) -> Any:
    data = torch.utils.data.TensorDataset(X, torch.arange(24) % 3)
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", devices=1, logger=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=str(folder), callbacks=callbacks,
        enable_checkpointing=False, log_every_n_steps=1, **more,
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=8))
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
