"""The contract of surgery on transformers: every family that people load, from small configurations."""

import copy
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers")

import sprig
from sprig.core.plan import Plan
from sprig.core.tracing import distance, tensors_of
from sprig.core.types import Graph
from sprig.models.specs import build
from sprig.testing.checks import check_surgery, output

TOLERANCE = 1e-8  # relative, float64
TOKENS, WORDS, SAMPLES = 7, 31, 3
Inputs = Callable[[torch.Generator], dict[str, Tensor]]

TEXT = "hidden_size=16&num_hidden_layers=2&num_attention_heads=4&intermediate_size=22&vocab_size=31"
EYES = "hidden_size=16&num_hidden_layers=2&num_attention_heads=4&intermediate_size=22&image_size=16&patch_size=8"
T5 = "d_model=16&d_kv=4&d_ff=22&num_layers=2&num_heads=4&vocab_size=31"
GPT2 = "n_embd=16&n_layer=2&n_head=4&n_inner=22&vocab_size=31&n_positions=16&bos_token_id=1&eos_token_id=2"
FALCON = "hidden_size=16&num_hidden_layers=2&num_attention_heads=4&vocab_size=31"
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
    """One model, and what must be prunable in it.

    `read`: pattern of weights that read what may leave → how many there are, and how many units each can lose.
    """

    spec: str
    inputs: Inputs
    read: Mapping[str, tuple[int, int]]


BERT = {
    "*encoder.layer.?.attention.output.dense.weight": (2, 4),
    "*encoder.layer.?.output.dense.weight": (2, 22),
}
SIGHT = {"*layers.?.attention.o_proj.weight": (2, 4), "*layers.?.mlp.fc2.weight": (2, 22)}
TOWER = {"*layers.?.self_attn.out_proj.weight": (2, 4), "*layers.?.mlp.fc2.weight": (2, 22)}
TOWERS = {f"{t}_model{p}": n for t in ("text", "vision") for p, n in TOWER.items()}
CODED = {
    "encoder.block.?.layer.0.SelfAttention.o.weight": (2, 4),
    "encoder.block.?.layer.1.DenseReluDense.wo.weight": (2, 22),
}
TWICE = (
    CODED
    | {  # the heads that look at the encoder stay: their layers share a table of zeros, one entry per head
        "decoder.block.?.layer.0.SelfAttention.o.weight": (2, 4),
        "decoder.block.?.layer.2.DenseReluDense.wo.weight": (2, 22),
    }
)
WRITES = {"*h.?.attn.c_proj.weight": (2, 4), "*h.?.mlp.c_proj.weight": (2, 22)}
HEARS = {
    "encoder.conv2.weight": (1, 16),
    "encoder.layers.?.self_attn.out_proj.weight": (1, 4),
    "encoder.layers.?.fc2.weight": (1, 22),
    "decoder.layers.?.self_attn.out_proj.weight": (2, 4),
    "decoder.layers.?.encoder_attn.out_proj.weight": (2, 4),
    "decoder.layers.?.fc2.weight": (2, 26),
}


def llama(keys: int) -> dict[str, tuple[int, int]]:
    """Queries leave with the keys that they share."""
    return {
        "*layers.?.self_attn.o_proj.weight": (2, keys),
        "*layers.?.mlp.down_proj.weight": (2, 22),
    }


FAMILIES = {
    "bert": Family(f"hf:bert?{TEXT}", text, BERT),
    "bert-written-out": Family(f"hf:bert?{TEXT}&attn_implementation=eager", text, BERT),
    "bert-classifier": Family(
        f"hf:bert?{TEXT}&class=BertForSequenceClassification&num_labels=3",
        text,
        BERT | {"classifier.weight": (1, 16)},
    ),
    "bert-words": Family(f"hf:bert?{TEXT}&class=BertForMaskedLM", text, BERT),
    "distilbert": Family(
        "hf:distilbert?dim=16&n_layers=2&n_heads=4&hidden_dim=22&vocab_size=31",
        text,
        {"*layer.?.attention.out_lin.weight": (2, 4), "*layer.?.ffn.lin2.weight": (2, 22)},
    ),
    "distilbert-classifier": Family(
        "hf:distilbert?dim=24&n_layers=1&n_heads=3&hidden_dim=10&vocab_size=31"
        "&class=DistilBertForSequenceClassification",
        text,
        {
            "*layer.?.attention.out_lin.weight": (1, 3),
            "*layer.?.ffn.lin2.weight": (1, 10),
            "classifier.weight": (1, 24),
        },
    ),
    "vit": Family(f"hf:vit?{EYES}&class=ViTForImageClassification", image, SIGHT),
    "vit-bare": Family(f"hf:vit?{EYES}&qkv_bias=false&hidden_act=relu", image, SIGHT),
    "clip-vision": Family(f"hf:clip_vision_model?{EYES}", image, TOWER),
    "clip-text": Family(f"hf:clip_text_model?{TEXT}&eos_token_id=2&bos_token_id=1", text, TOWER),
    "clip": Family(f"hf:clip?{BOTH}&projection_dim=8", both, TOWERS),
    "t5": Family(f"hf:t5?{T5}", two_texts, TWICE),
    "t5-gated": Family(
        f"hf:t5?{T5}&feed_forward_proj=gated-gelu&class=T5ForConditionalGeneration",
        two_texts,
        TWICE,
    ),
    "t5-three-heads": Family(  # where one is left, it fits whatever it meets
        f"hf:t5?{T5.replace('num_heads=4', 'num_heads=3')}",
        two_texts,
        {w: (n, 3 if units == 4 else units) for w, (n, units) in TWICE.items()},
    ),
    "t5-encoder": Family(f"hf:t5?{T5}&class=T5EncoderModel", text, CODED),
    "gpt2": Family(f"hf:gpt2?{GPT2}", text, WRITES),
    "gpt2-words": Family(
        f"hf:gpt2?{GPT2}&class=GPT2LMHeadModel&attn_implementation=eager", text, WRITES
    ),
    "llama-grouped": Family(f"hf:llama?{LLAMA}&num_key_value_heads=2", text, llama(2)),
    "llama-one-key": Family(  # all heads read the one key, which is repeated for as many as stay
        f"hf:llama?{LLAMA}&num_key_value_heads=1&class=LlamaForCausalLM", text, llama(4)
    ),
    "llama-one-key-written-out": Family(
        f"hf:llama?{LLAMA}&num_key_value_heads=1&attn_implementation=eager", text, llama(4)
    ),
    "llama-three-keys": Family(  # as many keys as queries to each, which one number of the module counts
        f"hf:llama?{LLAMA.replace('hidden_size=16', 'hidden_size=36').replace('heads=4', 'heads=9')}"
        "&num_key_value_heads=3",
        text,
        llama(3),
    ),
    "llama-written-out": Family(f"hf:llama?{LLAMA}&attn_implementation=eager", text, llama(4)),
    "mistral": Family(f"hf:mistral?{LLAMA}&num_key_value_heads=2&head_dim=4", text, llama(2)),
    # norms of queries and keys within each head
    "qwen3": Family(f"hf:qwen3?{LLAMA}&num_key_value_heads=2&head_dim=4", text, llama(2)),
    "gemma3": Family(f"hf:gemma3_text?{LLAMA}&num_key_value_heads=1&head_dim=4", text, llama(4)),
    # one map for queries, keys and values, taken apart by ranges
    "phi3": Family(f"hf:phi3?{LLAMA}&num_key_value_heads=2&pad_token_id=0", text, llama(2)),
    "gpt-bigcode": Family(f"hf:gpt_bigcode?{GPT2}", text, WRITES),
    # weights that are turned by hand
    "falcon": Family(
        f"hf:falcon?{FALCON}&new_decoder_architecture=true&num_kv_heads=2",
        text,
        {"h.?.self_attention.dense.weight": (2, 2), "h.?.mlp.dense_4h_to_h.weight": (2, 64)},
    ),
    "whisper": Family(f"hf:whisper?{WHISPER}", sound, HEARS),
}
RUNS = dict.fromkeys(("bert", "distilbert", "vit", "clip", "t5", "gpt2-words", "whisper"), 0.6)
RUNS["llama-grouped"] = 0.4  # at 60% the feed-forward features are enough


def made(name: str) -> tuple[torch.nn.Module, dict[str, Tensor]]:
    seed = int(os.environ.get("SPRIG_TEST_SEED", "0"))
    torch.manual_seed(seed)
    family = FAMILIES[name]
    return build(family.spec), family.inputs(torch.Generator().manual_seed(seed + 1))


def prunable_units(graph: Graph, weight: str) -> list[int]:
    """Sizes of what the weights of that pattern read, by weight; 0 where nothing of it may leave."""
    readers = {c.weight: c.groups for c in graph.consumers if fnmatch(c.weight, weight)}
    return [
        max((graph.groups[i].size for i in groups if graph.groups[i].prunable), default=0)
        for groups in readers.values()
    ]


@pytest.mark.parametrize("name", FAMILIES)
def test_masked_equals_shrunk(name: str) -> None:
    model, inputs = made(name)
    checked = check_surgery(model, (), inputs, together=1, alone=3, tolerance=TOLERANCE)
    for weight, (count, units) in FAMILIES[name].read.items():
        assert prunable_units(checked.graph, weight) == [units] * count, weight


def test_what_may_leave_may_leave_alone() -> None:
    """Layers that share a table of one entry per head fit it with one head left of three, but not with two."""
    model, inputs = made("t5-three-heads")
    graph = sprig.trace(model, inputs)
    few = [g for g in graph.prunable if g.size == 3]
    assert few
    for group in few:
        plan = Plan(keep={group.name: (0, 2)}, sizes={group.name: 3}, graph=graph.fingerprint)
        masked = output(sprig.mask(model, plan, graph), (), inputs)
        assert distance(masked, output(sprig.shrink(model, plan, graph), (), inputs)) < 1e-5


@pytest.mark.flow
@pytest.mark.parametrize("name", RUNS)
def test_from_pruning_to_the_folder_and_back(name: str, tmp_path: Path) -> None:
    """To 60% of the multiply-adds or less, heads among what leaves; the run folder gives it back, and it trains."""
    model, example = made(name)
    data = [FAMILIES[name].inputs(torch.Generator().manual_seed(seed)) for seed in range(8)]
    budget = sprig.Budget(macs=RUNS[name])
    result = sprig.prune(model, example, data, budget, folder=tmp_path / "run")
    assert result.certificate.passed
    gaps = {c.name: c.value for c in result.certificate.claims}
    assert gaps["masked-equals-shrunk-float64"] <= TOLERANCE
    assert RUNS[name] - 0.1 < result.after.macs / result.before.macs <= RUNS[name]
    assert type(result.model) is type(model)
    heads = [w for w, (_, units) in FAMILIES[name].read.items() if units <= 4]
    left = [
        len(result.plan.keep[result.graph.groups[i].name])
        for c in result.graph.consumers
        if any(fnmatch(c.weight, weight) for weight in heads)
        for i in c.groups
    ]
    assert left and min(left) < FAMILIES[name].read[heads[0]][1]
    torch.manual_seed(99)
    small = sprig.load(tmp_path / "run", model=build(FAMILIES[name].spec)).eval()
    unseen = FAMILIES[name].inputs(torch.Generator().manual_seed(100))
    before = output(small, (), unseen)
    assert distance(before, output(result.model, (), unseen)) == 0
    assert distance(before, output(model, (), unseen)) > 1e-5
    assert sprig.verify(tmp_path / "run", model, data).passed
    twin = copy.deepcopy(small).train()
    torch.stack([o.square().mean() for o in tensors_of(twin(**unseen))]).sum().backward()
    torch.optim.SGD(twin.parameters(), lr=1e-2).step()
    assert distance(before, output(twin, (), unseen)) > 1e-6
    assert distance(before, output(small, (), unseen)) == 0


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
