"""Padding is left out of whatever is measured: no number may depend on the tokens that stand there."""

import pytest
import torch
from torch import Tensor, nn

import sprig
from sprig.core.collect import collect
from sprig.core.harm import harm, looks_like_scores
from sprig.core.padding import blank, live_tokens, token_masks
from sprig.core.rows import rows
from sprig.core.workbench import Workbench
from sprig.methods.greedy.netloss import NetLoss
from sprig.training.evaluate import accuracy, agreement

LENGTH = 7


class Tagger(nn.Module):
    """Each token on its own; the mask is taken but changes nothing."""

    def __init__(self, named: bool = True) -> None:
        super().__init__()
        self.table = nn.Embedding(19, 8)
        self.wide, self.out = nn.Linear(8, 24), nn.Linear(24, 5)
        self.named = named

    def forward(self, ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        x = self.out(torch.relu(self.wide(self.table(ids)))) + 0 * attention_mask[..., None]
        return {"logits" if self.named else "last_hidden_state": x}


def tagger(named: bool = True) -> Tagger:
    torch.manual_seed(5)
    return Tagger(named).eval()


def padded(samples: int, junk: int, seed: int = 1) -> dict[str, Tensor]:
    """The same tokens whatever `junk` is; other ones at padding."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(19, (samples, LENGTH), generator=generator)
    lengths = torch.randint(2, LENGTH + 1, (samples, 1), generator=generator)
    mask = torch.arange(LENGTH)[None] < lengths
    other = torch.randint(19, ids.shape, generator=torch.Generator().manual_seed(junk))
    return {"ids": torch.where(mask, ids, other), "attention_mask": mask.long()}


def bench(junk: int) -> Workbench:
    data = padded(48, junk)
    graph = sprig.trace(tagger(), {k: v[:2] for k, v in data.items()})
    return Workbench(tagger(), graph, [((), data, None)])


def test_moments_are_those_of_the_tokens_alone() -> None:
    data = padded(48, junk=1)
    here = bench(1)
    found = collect(here, here.graph.consumers, per_column=1e9)
    consumer = next(c for c in here.graph.consumers if c.weight == "out.weight")
    model = here.model
    with torch.no_grad():
        hidden = torch.relu(model.wide(model.table(data["ids"])))  # type: ignore[operator]
    alone = hidden[data["attention_mask"].bool()].double()
    both = found[consumer.node][0] + found[consumer.node][1]
    assert both.count == len(alone) < 48 * LENGTH
    torch.testing.assert_close(both.mean.double(), alone.mean(0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("named", [True, False])
def test_nothing_depends_on_what_stands_at_padding(named: bool) -> None:
    made = []
    for junk in (1, 2):
        data = padded(64, junk)
        example = {k: v[:2] for k, v in data.items()}
        result = sprig.prune(tagger(named), example, [data], sprig.Budget(macs=0.5))
        errors = [c.value for c in result.certificate.claims if c.name.startswith("layer-errors")]
        made.append((result.plan.keep, result.model.state_dict(), errors, result.after.quality))
    (keep, state, errors, quality), other = made[0], made[1]
    assert keep == other[0]
    for name, tensor in state.items():
        assert torch.equal(tensor, other[1][name]), name
    assert errors == other[2]
    assert quality == other[3]
    assert quality["kl"] > 0 if named else quality["cosine"] < 1
    assert errors[0] > 1e-6  # something was lost, so equality says something


def test_loss_of_imitation_passes_over_padding() -> None:
    scores = []
    for junk in (1, 2):
        here = bench(junk)
        loss = NetLoss(here, objective="imitation")
        group = here.graph.prunable[0]
        loss.enter(group)
        half = torch.ones(loss.size)
        half[::2] = 0
        scores.append(loss.score(half, range(len(loss.chunks))).loss)
    assert scores[0] == scores[1] > 0


def test_agreement_counts_tokens() -> None:
    data = padded(12, junk=1)
    other = tagger()
    with torch.no_grad():
        other.out.weight.mul_(-1)
    found = agreement(tagger(), other, [data])
    assert found.count == int(data["attention_mask"].sum())
    assert found == agreement(tagger(), other, [padded(12, junk=2)])


def test_accuracy_passes_over_ignored_targets() -> None:
    logits = torch.eye(3).expand(2, 3, 3)
    targets = torch.tensor([[0, 1, -100], [1, -100, -100]])
    assert accuracy(nn.Identity(), [(logits, targets)]) == pytest.approx(2 / 3)


def test_masks_are_found_by_name_and_by_position() -> None:
    ids, mask = torch.zeros(2, 3, dtype=torch.long), torch.tensor([[1, 1, 0], [1, 0, 0]])
    for args, kwargs in (((ids, mask), {}), ((ids,), {"attention_mask": mask})):
        (found,) = token_masks(tagger(), args, kwargs).values()
        assert torch.equal(found, mask.bool())
    additive = torch.where(mask.bool(), 0.0, -1e9)
    (found,) = token_masks(nn.Identity(), (), {"attention_mask": additive}).values()
    assert torch.equal(found, mask.bool())
    assert not token_masks(nn.Identity(), (ids, mask), {})  # one argument: more do not fit it
    assert not token_masks(nn.Identity(), (), {"attention_mask": mask[:, None, None]})


def test_each_part_of_a_model_goes_by_its_own_mask() -> None:
    mask = torch.tensor([[1, 1, 0]])
    other = torch.tensor([[1, 0, 0]])
    inputs = {"attention_mask": mask, "decoder_input_ids": mask}
    x = torch.zeros(1, 3, 4)
    masks = token_masks(nn.Identity(), (), inputs)
    assert live_tokens(masks, x, "decoder.fc2.weight") is None
    assert torch.equal(live_tokens(masks, x, "encoder.fc2.weight"), mask.bool())
    masks = token_masks(nn.Identity(), (), {**inputs, "decoder_attention_mask": other})
    assert torch.equal(live_tokens(masks, x, "decoder.fc2.weight"), other.bool())
    assert torch.equal(live_tokens(masks, x), other.bool())  # the answer is the decoder's


def test_where_the_mask_does_not_fit_every_row_counts() -> None:
    masks = {"attention_mask": torch.tensor([[True, False, False]])}
    for shape in ((1, 3), (1, 5, 4), (2, 3, 4)):  # pooled, another length, windows of the batch
        assert live_tokens(masks, torch.zeros(shape)) is None
    x = torch.ones(1, 3, 2)
    (out,) = blank(masks, [x])
    assert out.sum() == 2 and x.sum() == 6


def test_rows_are_drawn_among_the_live() -> None:
    x = torch.arange(12.0).reshape(2, 3, 2)
    live = torch.tensor([[True, False, True], [False, False, True]])
    assert rows(x, "linear", live=live).where.tolist() == [0, 2, 5]
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        drawn = rows(x, "linear", live=live, limit=2, generator=generator)
        assert set(drawn.where.tolist()) < {0, 2, 5} and len(drawn.x) == 2
        assert torch.equal(drawn.x[:, 0], 2.0 * drawn.where)


def test_logits_of_a_sequence_are_scores_only_by_name() -> None:
    a, b = torch.randn(4, 6, 3), torch.randn(4, 6, 3)
    assert looks_like_scores([a], named=True) and not looks_like_scores([a])
    p, q = a.double().log_softmax(-1), b.double().log_softmax(-1)
    expected = (p.exp() * (p - q)).sum(-1).mean(1)
    torch.testing.assert_close(harm([a], [b], scores=True), expected)
