"""Sequences as transformers has them: padding in every layer, labels that the model shifts, experts that count."""

from typing import Any

import pytest
import torch
from torch import nn

import sprig
from sprig.core.batches import count
from sprig.core.cost import cost
from sprig.core.example import samples_of
from sprig.core.padding import live_tokens, token_masks
from sprig.training import FinetuneConfig

transformers = pytest.importorskip("transformers")

SMALL = {"vocab_size": 31, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
DECODER = {**SMALL, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
           "num_attention_heads": 4, "num_key_value_heads": 2}  # fmt: skip


def sentences(samples: int, seed: int, junk: int | None = None) -> dict[str, torch.Tensor]:
    """Words, the last of each second sample being padding."""
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 31, (samples, 9), generator=draw)
    mask = torch.ones_like(ids)
    mask[1::2, 5:] = 0
    if junk is not None:
        ids = torch.where(mask > 0, ids, junk)
    return {"input_ids": ids, "attention_mask": mask}


def gpt2() -> nn.Module:
    config = transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=16, **SMALL)
    return transformers.GPT2LMHeadModel(config)


def opt() -> nn.Module:
    config = transformers.OPTConfig(
        hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4, word_embed_proj_dim=32,
        max_position_embeddings=16, **SMALL,
    )  # fmt: skip
    return transformers.OPTForCausalLM(config)


def llama() -> nn.Module:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**DECODER))


def mixtral() -> nn.Module:
    return transformers.MixtralForCausalLM(transformers.MixtralConfig(
        **DECODER, num_local_experts=4, num_experts_per_tok=2, attn_implementation="eager"))  # fmt: skip


def t5() -> nn.Module:
    return transformers.T5ForConditionalGeneration(transformers.T5Config(
        d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0, **SMALL))  # fmt: skip


@pytest.mark.parametrize("make", [gpt2, opt, llama])
def test_what_stands_at_padding_changes_nothing(make: Any) -> None:
    found = []
    for junk in (3, 17):
        torch.manual_seed(0)
        model = make().eval()
        batch = sentences(32, 0, junk)
        example = {k: v[:2] for k, v in batch.items()}
        result = sprig.prune(model, example, [batch], sprig.Budget(macs=0.7))
        found.append((result.plan.keep, result.after.quality, result.model.state_dict()))
    (keep, quality, one), (other, same, two) = found
    assert keep == other and quality == pytest.approx(same, abs=1e-9)
    assert all(torch.allclose(one[name], two[name], atol=1e-6) for name in one)


def test_products_of_experts_count() -> None:
    torch.manual_seed(0)
    model, batch = mixtral().eval(), sentences(4, 0)
    graph = sprig.trace(model, {"input_ids": batch["input_ids"][:2]})
    experts = (
        2 * 9 * 2 * 3 * 32 * 48
    )  # layers, tokens, experts per token, matrices, and their sides
    attention = 2 * 9 * (32 * 32 * 2 + 2 * 32 * 16 + 2 * 9 * 32)
    rest = 9 * 32 * 31 + 2 * 9 * 32 * 4  # words, routers
    assert cost(graph)["macs"] == pytest.approx(experts + attention + rest, rel=0.01)
    words = {"input_ids": batch["input_ids"]}
    path = sprig.search(model, {"input_ids": batch["input_ids"][:2]}, [words], method="magnitude")
    with pytest.raises(sprig.InputError, match="reachable"):
        path.at(sprig.Budget(macs=0.5))


def test_the_answer_of_a_decoder_goes_by_its_own_mask() -> None:
    model, ids = t5(), torch.ones(2, 9, dtype=torch.int64)
    mask, late = torch.ones(2, 9), torch.ones(2, 9)
    mask[:, 4:], late[:, 7:] = 0, 0
    logits = torch.zeros(2, 9, 31)
    inputs = {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": ids}
    assert live_tokens(token_masks(model, (), inputs), logits) is None
    both = token_masks(model, (), {**inputs, "decoder_attention_mask": late})
    assert int(live_tokens(both, logits).sum()) == 14
    assert int(live_tokens(both, logits, "encoder.block.0").sum()) == 8


def test_a_tower_that_sees_has_no_words() -> None:
    masks = {"attention_mask": torch.tensor([[True, False]])}
    x = torch.zeros(1, 2, 4)
    assert live_tokens(masks, x, "vision_model.encoder.layers.0.mlp.fc1.weight") is None
    assert int(live_tokens(masks, x, "text_model.encoder.layers.0.mlp.fc1.weight").sum()) == 1


def test_an_additive_mask_without_padding_is_no_padding_alone() -> None:
    for value, counted in ((0.0, 6), (-1e9, 0), (1.0, 6)):
        (mask,) = token_masks(
            nn.Identity(), (), {"attention_mask": torch.full((2, 3), value)}
        ).values()
        assert int(mask.sum()) == counted


def test_positions_for_all_samples_are_no_sample() -> None:
    batch = {"position_ids": torch.arange(9)[None], **sentences(8, 0)}
    assert samples_of(batch) == count(((), batch, None)) == 8
    assert samples_of((torch.zeros(1, 4),)) == 1
    torch.manual_seed(0)
    model, example = llama().eval(), {k: v[:2] for k, v in batch.items()}
    result = sprig.prune(model, example, [batch], sprig.Budget(macs=0.8), method="magnitude")
    assert result.certificate.passed
    plain = {k: v for k, v in example.items() if k != "position_ids"}
    assert result.before.macs == cost(sprig.trace(model, plain))["macs"], "of one sample"


def chain(samples: int, seed: int) -> dict[str, torch.Tensor]:
    """Every word follows from the one before; labels are the words themselves, which the model shifts."""
    words = [torch.randint(28, (samples, 1), generator=torch.Generator().manual_seed(seed))]
    for _ in range(8):
        words.append((3 * words[-1] + 5) % 28)
    ids = torch.cat(words, 1) + 3
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}


def test_fine_tuning_learns_what_the_model_calls_its_loss() -> None:
    torch.manual_seed(0)
    model, data, unseen = llama(), [chain(32, seed) for seed in range(20)], chain(64, 99)
    with torch.no_grad():
        before = float(model(**unseen).loss)
    record = sprig.finetune(
        model,
        data,
        config=FinetuneConfig(epochs=3, optimizer="adamw", lr=3e-3),
        evaluation=[unseen],
    )
    with torch.no_grad():
        after = float(record.model(**unseen).loss)
    assert after < 0.5 * before, "copying the word would drive this up"
    assert record.last["evaluation loss"] == pytest.approx(after, rel=1e-4)
    assert "accuracy" not in record.last
    with pytest.raises(sprig.InputError, match="without smoothing"):
        sprig.finetune(model, data, config=FinetuneConfig(epochs=1, smoothing=0.1))
    free = sprig.finetune(
        model, data[:2], config=FinetuneConfig(epochs=1),
        loss=lambda output, target: output.logits.square().mean() + 0 * target.sum(),
    )  # fmt: skip
    assert free.steps == 2, "a loss that is given is the one"


def test_distillation_learns_nothing_from_padding() -> None:
    states = []
    for junk in (3, 17):
        torch.manual_seed(0)
        teacher, student = llama().eval(), llama()
        data = [sentences(8, seed, junk) for seed in range(3)]
        record = sprig.finetune(student, data, teacher=teacher, config=FinetuneConfig(epochs=1))
        states.append(dict(record.model.state_dict()))
    skipped = "embed_tokens"  # rows of words that stand at padding alone may decay
    assert all(
        torch.allclose(states[0][k], states[1][k], atol=1e-6) for k in states[0] if skipped not in k
    )
