"""The contract of surgery on transformers: every family that people load, from small configurations."""

import os
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers")

import sprig
from sprig.models.specs import build
from sprig.testing.checks import check_surgery

TOLERANCE = 1e-8  # relative, float64
TOKENS, WORDS, SAMPLES = 7, 31, 3
Inputs = Callable[[torch.Generator], dict[str, Tensor]]

TEXT = "hidden_size=16&num_hidden_layers=2&num_attention_heads=4&intermediate_size=22&vocab_size=31"
EYES = "hidden_size=16&num_hidden_layers=2&num_attention_heads=4&intermediate_size=22&image_size=16&patch_size=8"
T5 = "d_model=16&d_kv=4&d_ff=22&num_layers=2&num_heads=4&vocab_size=31"
GPT2 = "n_embd=16&n_layer=2&n_head=4&n_inner=22&vocab_size=31&n_positions=16&bos_token_id=1&eos_token_id=2"
LLAMA = f"{TEXT}&max_position_embeddings=16"
BOTH = "&".join(
    [f"text_config.{k}" for k in f"{TEXT}&eos_token_id=2&bos_token_id=1".split("&")]
    + [f"vision_config.{k}" for k in EYES.split("&")]
)
WHISPER = (
    "d_model=16&encoder_layers=1&decoder_layers=2&encoder_attention_heads=4&decoder_attention_heads=4&encoder_ffn_dim=22"
    "&decoder_ffn_dim=26&num_mel_bins=6&max_source_positions=8&max_target_positions=8&vocab_size=31"
    "&pad_token_id=0&bos_token_id=1&eos_token_id=2&decoder_start_token_id=1"
)


def words(generator: torch.Generator) -> Tensor:
    return torch.randint(3, WORDS, (SAMPLES, TOKENS), generator=generator)


def text(generator: torch.Generator) -> dict[str, Tensor]:
    mask = torch.ones(SAMPLES, TOKENS, dtype=torch.long)
    mask[1, 4:] = 0
    return {"input_ids": words(generator), "attention_mask": mask}


def image(generator: torch.Generator) -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(SAMPLES, 3, 16, 16, generator=generator)}


def two_texts(generator: torch.Generator) -> dict[str, Tensor]:
    return {**text(generator), "decoder_input_ids": words(generator)[:, :5]}


def sound(generator: torch.Generator) -> dict[str, Tensor]:
    features = torch.randn(SAMPLES, 6, 16, generator=generator)
    return {"input_features": features, "decoder_input_ids": words(generator)}


def both(generator: torch.Generator) -> dict[str, Tensor]:
    return {**text(generator), **image(generator)}


@dataclass(frozen=True)
class Family:
    """One model and what must be prunable in it: a part of a group's name."""

    spec: str
    inputs: Inputs
    prunable: tuple[str, ...]


FAMILIES = {
    "bert": Family(f"hf:bert?{TEXT}", text, ("intermediate",)),
    "bert-written-out": Family(
        f"hf:bert?{TEXT}&attn_implementation=eager", text, ("intermediate",)
    ),
    "bert-classifier": Family(
        f"hf:bert?{TEXT}&class=BertForSequenceClassification&num_labels=3",
        text,
        ("intermediate", "pooler"),
    ),
    "bert-words": Family(f"hf:bert?{TEXT}&class=BertForMaskedLM", text, ("intermediate",)),
    "distilbert": Family(
        "hf:distilbert?dim=16&n_layers=2&n_heads=4&hidden_dim=22&vocab_size=31", text, ("lin1",)
    ),
    "distilbert-classifier": Family(
        "hf:distilbert?dim=24&n_layers=1&n_heads=3&hidden_dim=10&vocab_size=31"
        "&class=DistilBertForSequenceClassification",
        text,
        ("lin1", "pre_classifier"),
    ),
    "vit": Family(f"hf:vit?{EYES}&class=ViTForImageClassification", image, ("fc1",)),
    "vit-bare": Family(f"hf:vit?{EYES}&qkv_bias=false&hidden_act=relu", image, ("fc1",)),
    "clip-vision": Family(f"hf:clip_vision_model?{EYES}", image, ("fc1",)),
    "clip-text": Family(f"hf:clip_text_model?{TEXT}&eos_token_id=2&bos_token_id=1", text, ("fc1",)),
    "clip": Family(
        f"hf:clip?{BOTH}&projection_dim=8", both, ("vision_model.encoder", "text_model.encoder")
    ),
    "t5": Family(f"hf:t5?{T5}", two_texts, ("encoder.block", "decoder.block")),
    "t5-gated": Family(
        f"hf:t5?{T5}&feed_forward_proj=gated-gelu&class=T5ForConditionalGeneration",
        two_texts,
        ("wi_0",),
    ),
    "t5-encoder": Family(f"hf:t5?{T5}&class=T5EncoderModel", text, ("DenseReluDense.wi",)),
    "gpt2": Family(f"hf:gpt2?{GPT2}", text, ("c_fc",)),
    "gpt2-words": Family(
        f"hf:gpt2?{GPT2}&class=GPT2LMHeadModel&attn_implementation=eager", text, ("c_fc",)
    ),
    "llama-grouped": Family(f"hf:llama?{LLAMA}&num_key_value_heads=2", text, ("gate_proj",)),
    "llama-one-key": Family(
        f"hf:llama?{LLAMA}&num_key_value_heads=1&class=LlamaForCausalLM", text, ("gate_proj",)
    ),
    "llama-written-out": Family(
        f"hf:llama?{LLAMA}&attn_implementation=eager", text, ("gate_proj",)
    ),
    "mistral": Family(f"hf:mistral?{LLAMA}&num_key_value_heads=2&head_dim=4", text, ("gate_proj",)),
    "whisper": Family(
        f"hf:whisper?{WHISPER}", sound, ("conv1", "encoder.layers", "decoder.layers")
    ),
}


def made(name: str) -> tuple[torch.nn.Module, dict[str, Tensor]]:
    seed = int(os.environ.get("SPRIG_TEST_SEED", "0"))
    torch.manual_seed(seed)
    family = FAMILIES[name]
    return build(family.spec), family.inputs(torch.Generator().manual_seed(seed + 1))


@pytest.mark.parametrize("name", FAMILIES)
def test_masked_equals_shrunk(name: str) -> None:
    model, inputs = made(name)
    checked = check_surgery(model, (), inputs, together=1, alone=3, tolerance=TOLERANCE)
    found = [g.name for g in checked.graph.prunable]
    for part in FAMILIES[name].prunable:
        assert any(part in n for n in found), f"nothing of {part} can be cut, only {found}"


@pytest.mark.parametrize("name", ["bert", "t5-encoder", "llama-grouped", "vit", "whisper"])
def test_from_pruning_to_the_folder_and_back(name: str, tmp_path) -> None:
    model, example = made(name)
    data = [FAMILIES[name].inputs(torch.Generator().manual_seed(seed)) for seed in range(8)]
    result = sprig.prune(model, example, data, sprig.Budget(macs=0.9), folder=tmp_path / "run")
    assert result.certificate.passed
    assert type(result.model) is type(model)
    small = sprig.load(tmp_path / "run", model=model).eval()
    with torch.no_grad():
        ours, theirs = small(**example), result.model.eval()(**example)
    for key in ("logits", "logits_per_image", "last_hidden_state"):
        if key in ours:
            assert torch.equal(ours[key], theirs[key])
    assert sprig.verify(tmp_path / "run", model, data).passed


def test_caches_for_later_calls_hold_nothing_back() -> None:
    """Keys and values that a model gives back beside its answer change neither the groups nor the answer."""
    graphs = []
    for cached in ("true", "false"):
        torch.manual_seed(0)
        model = build(f"hf:llama?{LLAMA}&num_key_value_heads=2&use_cache={cached}")
        inputs = text(torch.Generator().manual_seed(1))
        graphs.append(sprig.trace(model, inputs))
        assert model.config.use_cache is (cached == "true")
        assert (model(**inputs).past_key_values is not None) is (cached == "true")
        if cached == "true":
            check_surgery(model, (), inputs, together=1, alone=1, tolerance=TOLERANCE)
    assert graphs[0].fingerprint == graphs[1].fingerprint
    assert [g.prunable for g in graphs[0].groups] == [g.prunable for g in graphs[1].groups]
