"""Channels that norms are taken over, from pruning to the run folder and back; and what the refit is worth there."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sprig
from sprig.cli.norms import known_norms
from sprig.core.norms import OverKept
from sprig.core.sensitivity import Trial, measure
from sprig.core.workbench import Workbench
from sprig.methods import METHODS
from sprig.methods.greedy.evidence import evidence
from sprig.methods.greedy.refit import RefitConfig, marks, refitted, walked
from sprig.testing.normed import NORMED

FAST = {"refit": {"ratio_pairs": 0}, "loss": {"objective": "imitation", "samples": 64}}


def data(name: str, *, batches: int = 4) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    shape = (32, *NORMED[name].shape[1:])
    words = name in ("layered", "rooted")
    return [
        torch.randint(0, 11, shape, generator=generator)
        if words
        else torch.randn(shape, generator=generator)
        for _ in range(batches)
    ]


def made(name: str) -> nn.Module:
    torch.manual_seed(0)
    return NORMED[name].make().eval()


@pytest.mark.parametrize("method", ["refit", "reweight", "loss", "magnitude"])
def test_methods_cut_streams_behind_norms(method: str) -> None:
    net, xs = made("gated"), data("gated")
    config = METHODS[method].config(**FAST.get(method, {}))
    result = sprig.prune(
        net, (xs[0][:2],), xs, sprig.Budget(macs=0.2), method=method, config=config, norms="cut"
    )
    assert result.certificate.passed
    assert len(result.plan.keep["enter"]) < 8
    assert not any(isinstance(m, OverKept) for m in result.model.modules())
    assert result.record.config["norms"] == "cut"


def test_a_small_transformer_there_and_back(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    sizes = {
        "img_size": 16,
        "patch_size": 4,
        "embed_dim": 24,
        "depth": 2,
        "num_heads": 3,
        "num_classes": 5,
    }
    net = timm.models.VisionTransformer(**sizes).eval()
    xs = [torch.randn(16, 3, 16, 16) for _ in range(3)]
    config = RefitConfig(ratio_pairs=0)
    result = sprig.prune(
        net,
        (xs[0][:2],),
        xs,
        sprig.Budget(macs=0.2),
        config=config,
        norms="cut",
        folder=tmp_path / "run",
    )
    stream = len(result.plan.keep["patch_embed.proj"])
    assert stream < 24
    assert result.model.blocks[0].norm1.normalized_shape == (stream,)  # type: ignore[index,union-attr]
    assert type(result.model.blocks[0].norm1) is type(net.blocks[0].norm1)  # type: ignore[index,union-attr]
    loaded: Any = sprig.load(tmp_path / "run", net)
    assert torch.equal(loaded.eval()(xs[0]), result.model.eval()(xs[0]))
    assert sprig.verify(tmp_path / "run", net, xs).passed
    by_example = sprig.shrink(net, result.plan, (xs[0][:2],))  # the plan says which graph it means
    assert by_example.norm.normalized_shape == (stream,)  # type: ignore[union-attr]


def test_a_run_goes_on_with_the_norms_it_was_begun_with(tmp_path: Path) -> None:
    net, xs = made("stream"), data("stream")

    def stop(what: str, done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    def go(norms: Any, **more: Any) -> None:
        budget, folder = sprig.Budget(macs=0.5), tmp_path / "run"
        sprig.prune(net, (xs[0][:2],), xs, budget, norms=norms, folder=folder, **more)

    with pytest.raises(KeyboardInterrupt):
        go("cut", progress=stop)
    with pytest.raises(sprig.StoreError, match="was begun with norms = 'cut', now it is 'keep'"):
        go("keep", resume=True)


class Patches(nn.Module):
    """Patches, places, one pre-norm block, a norm before the head."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.cut = nn.Conv2d(1, width, 4, stride=4)
        self.place = nn.Parameter(torch.randn(1, 4, width) * 0.02)
        self.before, self.mix = nn.LayerNorm(width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 32), nn.Linear(32, width)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(4 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.cut(x).flatten(2).transpose(1, 2) + self.place
        x = x + self.down(F.gelu(self.up(self.before(x))))
        return self.head(self.norm(x).flatten(1))


def trained() -> tuple[nn.Module, Tensor, Tensor, Tensor, Tensor]:
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    x = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 8 - 1
    y = torch.tensor(digits.target)
    torch.manual_seed(0)
    order = torch.randperm(len(x))
    x, y = x[order], y[order]
    net = Patches()
    step = torch.optim.AdamW(net.parameters(), lr=4e-3)
    for _ in range(12):
        for batch in torch.randperm(1200).split(60):
            step.zero_grad()
            F.cross_entropy(net(x[batch]), y[batch]).backward()
            step.step()
    return net.eval(), x[:600], y[:600], x[1200:], y[1200:]


def test_the_refit_beats_magnitude_and_whole_streams() -> None:
    net, seen, _, unseen, answers = trained()
    batches = list(seen.split(100))

    def right(model: nn.Module) -> float:
        return float((model(unseen).argmax(1) == answers).float().mean())

    found = {}
    for method, norms in (("refit", "cut"), ("magnitude", "cut")):
        config = METHODS[method].config(**FAST.get(method, {}))
        result = sprig.prune(
            net,
            (seen[:2],),
            batches,
            sprig.Budget(macs=0.5),
            method=method,
            config=config,
            norms=norms,
        )  # type: ignore[arg-type]
        assert len(result.plan.keep["cut"]) < 16
        found[method] = right(result.model)
    assert right(net) > 0.85
    assert found["refit"] > found["magnitude"] + 0.1
    assert found["refit"] > right(net) - 0.15


def test_a_stream_is_tried_with_consumers_solved_behind_its_norms() -> None:
    net, xs = (
        made("stream"),
        [torch.randn(64, 5, 6) * torch.tensor([9.0, 1, 1, 1, 1, 1]) for _ in range(4)],
    )
    graph = sprig.trace(net, (xs[0][:2],), norms="cut")
    bench = Workbench(net, graph, [((x,), {}, None) for x in xs])
    group, config = graph.group("enter"), RefitConfig()
    known = evidence(bench, ridge=None, per_column=2.0, least=4096)
    picks = [0, 2, 5, 7]
    plain = refitted(bench, group, picks, known.of(group, whole=False))
    solved = walked(bench, group, picks, config)
    mark = marks(bench, group, picks)
    assert set(mark) == {"norm.weight"} and set(solved) == set(plain)
    trial = Trial(group.index, 4)
    rough = measure(bench, [trial], lambda _: plain | mark, work=1e12)[trial]
    exact = measure(bench, [trial], lambda _: solved | mark, work=1e12)[trial]
    assert exact < rough


def test_the_flag_knows_two_words() -> None:
    assert [known_norms(word) for word in ("keep", "cut")] == ["keep", "cut"]
    with pytest.raises(sprig.InputError, match="--norms is 'all'; known are keep, cut"):
        known_norms("all")
