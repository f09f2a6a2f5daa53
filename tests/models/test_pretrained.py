"""Cut models as folders of transformers: one width for all layers can be told, several cannot."""

import pytest
import torch
from torch import Tensor, nn

import sprig
from sprig.core.errors import InputError
from sprig.models.pretrained import fitted_config, save_pretrained
from sprig.models.specs import build

pytest.importorskip("transformers")

SPECS = {
    "bert": "hf:bert?hidden_size=16&num_hidden_layers=2&num_attention_heads=4&intermediate_size=20&vocab_size=31",
    "gpt2": "hf:gpt2?n_embd=16&n_layer=2&n_head=4&vocab_size=31&n_positions=16&bos_token_id=1&eos_token_id=2",
    "llama": "hf:llama?hidden_size=16&num_hidden_layers=2&num_attention_heads=4&num_key_value_heads=2"
    "&intermediate_size=20&vocab_size=31",
    "t5": "hf:t5?d_model=16&d_kv=4&d_ff=20&num_layers=2&num_heads=4&vocab_size=31&class=T5EncoderModel",
}


def cut(name: str, *, heads: bool, last: int) -> tuple[nn.Module, dict[str, Tensor]]:
    """Half of every group (`last` units of the last one), and inputs."""
    torch.manual_seed(0)
    model = build(SPECS[name])
    ids = torch.randint(3, 31, (2, 6), generator=torch.Generator().manual_seed(1))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    graph = sprig.trace(model, inputs)
    chosen = [g for g in graph.prunable if heads or g.size > 4]
    keep = {g.name: tuple(range(g.size // 2)) for g in chosen}
    keep[chosen[-1].name] = tuple(range(last))
    sizes = {g.name: g.size for g in chosen}
    plan = sprig.Plan(keep=keep, sizes=sizes, graph=graph.fingerprint, method="by hand")
    return sprig.shrink(model, plan, graph).eval(), inputs


@pytest.mark.parametrize(
    ("name", "heads", "key", "value"),
    [
        ("bert", False, "intermediate_size", 10),
        ("gpt2", False, "n_inner", 32),
        ("llama", True, "num_key_value_heads", 1),
        ("t5", True, "num_heads", 2),
    ],
)
def test_one_width_for_all_layers_comes_back(
    name: str, heads: bool, key: str, value: int, tmp_path
) -> None:
    last = {"bert": 10, "gpt2": 32, "llama": 10, "t5": 10}[name]
    small, inputs = cut(name, heads=heads, last=last)
    assert getattr(fitted_config(small), key) == value
    save_pretrained(small, tmp_path / "cut")
    spec = f"hf:{tmp_path / 'cut'}" + ("?class=T5EncoderModel" if name == "t5" else "")
    again = build(spec)
    with torch.no_grad():
        ours, theirs = small(**inputs).last_hidden_state, again(**inputs).last_hidden_state
    assert torch.equal(ours, theirs)
    assert getattr(small.config, key) != value  # the model itself was left alone


def test_layers_of_several_widths_are_refused(tmp_path) -> None:
    small, _ = cut("bert", heads=False, last=7)
    with pytest.raises(
        InputError, match=r"encoder.layer.0.intermediate.dense.weight is \(10, 16\)"
    ):
        save_pretrained(small, tmp_path / "cut")
    assert not (tmp_path / "cut").exists()


def test_heads_that_the_stream_decides_are_refused() -> None:
    small, _ = cut("bert", heads=True, last=10)
    with pytest.raises(InputError, match="no configuration has the widths"):
        fitted_config(small)


def test_other_modules_have_no_configuration() -> None:
    with pytest.raises(InputError, match="Linear is no model of transformers"):
        fitted_config(nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("name", "key", "exclude"),
    [
        ("bert", "intermediate_size", ("*attention*",)),
        ("llama", "intermediate_size", ()),
        ("t5", "d_ff", ()),
    ],
)
def test_a_cut_with_one_width_for_all_layers_is_told_by_a_configuration(
    name: str, key: str, exclude: tuple[str, ...], tmp_path
) -> None:
    torch.manual_seed(0)
    model = build(SPECS[name]).eval()
    ids = torch.randint(3, 31, (16, 6), generator=torch.Generator().manual_seed(1))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    example = {k: v[:2] for k, v in inputs.items()}
    dense = sum(
        p.numel() for n, p in model.named_parameters() if "embed" not in n and "shared" not in n
    )
    whole = sum(p.numel() for p in model.parameters())
    limit = (whole - 0.3 * dense) / whole
    result = sprig.prune(
        model, example, [inputs], sprig.Budget(params=limit), alike=True, exclude=exclude
    )  # fmt: skip
    save_pretrained(result.model, tmp_path / "cut")
    assert getattr(fitted_config(result.model), key) < getattr(model.config, key)
    if exclude:
        heads = [n for n in result.plan.keep if "attention" in n]
        assert not heads, "left whole on request"
    spec = f"hf:{tmp_path / 'cut'}" + ("?class=T5EncoderModel" if name == "t5" else "")
    with torch.no_grad():
        ours, theirs = result.model.eval()(**inputs), build(spec).eval()(**inputs)
    assert torch.equal(ours.last_hidden_state, theirs.last_hidden_state)


def test_a_configuration_with_a_width_for_every_layer_tells_several() -> None:
    spec = (
        "hf:gemma3n_text?hidden_size=16&num_hidden_layers=3&num_attention_heads=2&num_key_value_heads=1&head_dim=8"
        "&vocab_size=31&vocab_size_per_layer_input=31&hidden_size_per_layer_input=4&laurel_rank=4"
        "&num_kv_shared_layers=0&intermediate_size="
    )
    dense = build(spec + "20")
    config = type(dense.config)(**{**dense.config.to_dict(), "intermediate_size": [20, 7, 12]})
    small = type(dense)(config)
    small.config = dense.config  # as after a cut: it still speaks of the dense widths
    assert dense.config.intermediate_size == [20, 20, 20]
    assert fitted_config(small).intermediate_size == [20, 7, 12]
    assert dense.config.intermediate_size == [20, 20, 20]
