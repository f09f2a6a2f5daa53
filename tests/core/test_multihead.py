"""torch's own attention: the class for odd sizes computes what torch's does, and networks with it lose heads."""

import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sprig
from sprig.core.errors import SurgeryError
from sprig.core.multihead import NarrowAttention, narrow
from sprig.testing.checks import check_surgery

WIDTH, HEADS = 12, 3


def twin(module: nn.MultiheadAttention) -> NarrowAttention:
    """The same module, of the class for odd sizes, with nothing cut."""
    out: Any = copy.deepcopy(module)
    out.scale, out.__class__ = out.head_dim**-0.5, NarrowAttention
    return out  # type: ignore[no-any-return]


MADE = {
    "plain": {},
    "first": {"batch_first": True},
    "without-bias": {"bias": False},
    "other-inputs": {"kdim": 7, "vdim": 5},
    "appended": {"add_bias_kv": True, "add_zero_attn": True},
}
CALLS: dict[str, dict[str, Any]] = {
    "plain": {},
    "fused": {"need_weights": False},
    "per-head": {"average_attn_weights": False},
    "mask": {"attn_mask": torch.ones(4, 6).triu(2).bool()},
    "added": {"attn_mask": torch.randn(4, 6, generator=torch.Generator().manual_seed(1)).double()},
    "every-head": {"attn_mask": torch.ones(2 * HEADS, 4, 6).tril(3) == 0},
    "padding": {"key_padding_mask": torch.tensor([[False] * 6, [False] * 4 + [True] * 2])},
    "causal": {
        "attn_mask": torch.ones(4, 6).triu(1).bool(),
        "is_causal": True,
        "need_weights": False,
    },
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("made", MADE)
def test_computes_what_torch_computes(made: str, call: str) -> None:
    torch.manual_seed(0)
    args = MADE[made]
    module = nn.MultiheadAttention(WIDTH, HEADS, **args).double()  # type: ignore[arg-type]
    for p in module.parameters():
        nn.init.normal_(p)  # biases too
    other = (args.get("kdim", WIDTH), args.get("vdim", WIDTH))
    q, k, v = (torch.randn(2, n, w).double() for n, w in zip((4, 6, 6), (WIDTH, *other)))
    if "batch_first" not in args:
        q, k, v = (t.transpose(0, 1) for t in (q, k, v))
    if call == "causal" and "add_bias_kv" in args:
        pytest.skip("torch itself does not allow the hint beside appended keys")
    expected = module(q, k, v, **CALLS[call])
    found = twin(module)(q, k, v, **CALLS[call])
    torch.testing.assert_close(found[0], expected[0])
    assert (found[1] is None) == (expected[1] is None)
    if expected[1] is not None:
        torch.testing.assert_close(found[1], expected[1])


def test_one_sequence_without_a_batch() -> None:
    module = nn.MultiheadAttention(WIDTH, HEADS).double()
    x = torch.randn(5, WIDTH).double()
    missing = torch.tensor([False, False, False, True, True])
    expected = module(x, x, x, key_padding_mask=missing)
    found = twin(module)(x, x, x, key_padding_mask=missing)
    torch.testing.assert_close(found, expected)


def test_the_hint_alone_is_refused_as_torch_refuses_it() -> None:
    module, x = nn.MultiheadAttention(WIDTH, HEADS), torch.randn(4, 2, WIDTH)
    with pytest.raises(RuntimeError):
        module(x, x, x, is_causal=True, need_weights=False)
    with pytest.raises(RuntimeError, match="give attn_mask too"):
        twin(module)(x, x, x, is_causal=True, need_weights=False)


def test_only_what_was_cut_changes_its_class() -> None:
    module = nn.MultiheadAttention(WIDTH, HEADS)
    narrow(module)
    assert type(module) is nn.MultiheadAttention


def test_queries_and_keys_of_unlike_size_are_refused() -> None:
    module = nn.MultiheadAttention(WIDTH, HEADS)
    module.in_proj_weight = nn.Parameter(torch.randn(3 * WIDTH - 1, WIDTH))
    with pytest.raises(SurgeryError, match="unlike parts"):
        narrow(module)


class Encoder(nn.Module):
    def __init__(self, first: bool, norm_first: bool) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(24, 4, 40, norm_first=norm_first, batch_first=first)
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean(1))  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """Cross-attention: queries from one side, keys and values from rows of the same fused projection."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerDecoderLayer(24, 4, 40, batch_first=True)
        self.body = nn.TransformerDecoder(layer, 1)
        self.start = nn.Parameter(torch.randn(1, 3, 24))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.start.expand(len(x), -1, -1), x)  # type: ignore[no-any-return]


class Cross(nn.Module):
    """Keys and values of other widths, and the weights, which nobody reads."""

    def __init__(self) -> None:
        super().__init__()
        self.ask, self.tell = nn.Linear(8, 24), nn.Linear(8, 10)
        self.attend = nn.MultiheadAttention(24, 4, batch_first=True, kdim=10, vdim=10)
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        facts = self.tell(x)
        out, _ = self.attend(self.ask(x), facts, facts)
        return self.head(out)  # type: ignore[no-any-return]


class Rows(nn.Module):
    """A fused projection that the forward takes apart by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(36, 8)), nn.Parameter(torch.randn(36))
        self.out = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        gate, up, more = self.weight.chunk(3)
        parts = self.bias.chunk(3)
        hidden = nn.functional.linear(x, gate, parts[0]).sigmoid()
        hidden = hidden * nn.functional.linear(x, up, parts[1])
        return self.out(hidden + nn.functional.linear(x, more, parts[2]))  # type: ignore[no-any-return]


NETS = {
    "encoder": (partial(Encoder, True, False), (5, 24), 2),
    "encoder-norm-first": (partial(Encoder, False, True), (5, 24), 2),
    "decoder": (Decoder, (5, 24), 2),
    "cross": (Cross, (5, 8), 1),
}


@pytest.mark.parametrize("name", NETS)
def test_heads_leave(name: str, tmp_path: Path) -> None:
    make, shape, attentions = NETS[name]
    torch.manual_seed(0)
    net = make().eval()
    x = torch.randn(2, *shape)
    graph = sprig.trace(net, (x,))
    heads = [g for g in graph.prunable if g.size == 4]
    assert len(heads) == attentions, [(g.name, g.size, g.reason) for g in graph.groups]
    check_surgery(net, (x,))


@pytest.mark.parametrize("name", ["encoder", "decoder"])
def test_heads_that_left_stay_away_after_loading(name: str, tmp_path: Path) -> None:
    make, shape, _ = NETS[name]
    torch.manual_seed(0)
    net, data = make().eval(), torch.randn(32, *shape)
    result = sprig.prune(net, (data[:2],), [data], sprig.Budget(macs=0.6), method="refit")
    narrowed = [m for m in result.model.modules() if isinstance(m, NarrowAttention)]
    assert narrowed and all(m.out_proj.in_features == m.num_heads * m.head_dim for m in narrowed)
    loaded = sprig.load(result.save(tmp_path / "run"), make()).eval()
    torch.testing.assert_close(loaded(data), result.model.eval()(data), rtol=0, atol=0)
    assert sprig.verify(tmp_path / "run", net).passed


def test_equal_rows_of_one_parameter_leave_together() -> None:
    torch.manual_seed(0)
    net, x = Rows().eval(), torch.randn(4, 8)
    graph = sprig.trace(net, (x,))
    assert [(g.name, g.size) for g in graph.prunable] == [("weight", 12)]
    check_surgery(net, (x,))


def test_unequal_counts_do_not_hide_one_number() -> None:
    """The stream and the heads both have a say in `embed_dim`; each may shrink without the other."""

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.attend = nn.Linear(8, 24), nn.MultiheadAttention(24, 4)
            self.head = nn.Linear(24, 5)

        def forward(self, x: Tensor) -> Tensor:
            h = self.stem(x)
            return self.head(h + self.attend(h, h, h)[0])  # type: ignore[no-any-return]

    net, x = Both().eval(), torch.randn(3, 2, 8)
    graph = sprig.trace(net, (x,))
    assert {g.name for g in graph.prunable} == {"stem", "attend"}
    for stem, heads in ((9, 4), (24, 1), (7, 3)):
        plan = sprig.Plan(
            keep={"stem": tuple(range(stem)), "attend": tuple(range(heads))},
            sizes={"stem": 24, "attend": 4},
            graph=graph.fingerprint,
            method="by hand",
        )
        torch.testing.assert_close(
            sprig.shrink(net, plan, graph)(x), sprig.mask(net, plan, graph)(x)
        )
    check_surgery(net, (x,))
