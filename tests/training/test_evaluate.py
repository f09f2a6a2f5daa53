"""Accuracy and agreement against plain numpy."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from torch import nn

from sprig.core.errors import InputError
from sprig.training.distill import main_output
from sprig.training.evaluate import accuracy, agreement


class Table(nn.Module):
    """Answers sample i with row i of a table."""

    def __init__(self, rows):
        super().__init__()
        self.rows = nn.Parameter(torch.as_tensor(rows))

    def forward(self, x):
        return self.rows[x]


def tables(n=200, classes=7):
    rng = np.random.default_rng(0)
    dense = rng.normal(size=(n, classes)) * 2
    return dense, dense + rng.normal(size=(n, classes))


def test_agreement_equals_numpy():
    dense, pruned = tables()
    index = torch.arange(200)
    found = agreement(Table(dense), Table(pruned), [index[:60], index[60:]])
    p, q = log_softmax(dense, axis=1), log_softmax(pruned, axis=1)
    same = dense.argmax(1) == pruned.argmax(1)
    sure = np.exp(p).max(1) > 0.5
    norms = np.linalg.norm(dense, axis=1) * np.linalg.norm(pruned, axis=1)
    assert found.count == 200
    assert found.confident == sure.sum()
    assert 0 < sure.sum() < 200
    assert found.top1 == pytest.approx(same.mean())
    assert found.confident_top1 == pytest.approx(same[sure].mean())
    assert found.kl == pytest.approx((np.exp(p) * (p - q)).sum(1).mean())
    assert found.relative_error == pytest.approx(((dense - pruned) ** 2).sum() / (dense**2).sum())
    assert found.cosine == pytest.approx(((dense * pruned).sum(1) / norms).mean())


def test_agreement_of_plain_vectors_and_of_maps():
    dense, pruned = tables(8, 24)
    index = [torch.arange(8)]
    plain = agreement(Table(dense), Table(pruned), index, logits=False)
    assert (plain.top1, plain.confident_top1, plain.kl, plain.count) == (None, None, None, 8)
    maps = agreement(Table(dense.reshape(8, 6, 2, 2)), Table(pruned.reshape(8, 6, 2, 2)), index)
    assert maps.count == 32
    assert maps.relative_error == pytest.approx(plain.relative_error)
    assert maps.cosine == pytest.approx(plain.cosine)
    same = dense.reshape(8, 6, 4).argmax(1) == pruned.reshape(8, 6, 4).argmax(1)
    assert maps.top1 == pytest.approx(same.mean())


def test_nothing_confident_and_nothing_to_compare():
    zero = Table(np.zeros((4, 5)))
    found = agreement(zero, zero, [torch.arange(4)])
    assert found.confident_top1 is None
    assert found.relative_error == 0.0
    assert agreement(zero, Table(np.ones((4, 5))), [torch.arange(4)]).relative_error == np.inf
    with pytest.raises(InputError, match="empty"):
        agreement(zero, zero, [])
    with pytest.raises(InputError, match="differ in shape"):
        agreement(zero, Table(np.zeros((4, 6))), [torch.arange(4)])
    with pytest.raises(InputError, match="floating tensors"):
        agreement(nn.Identity(), nn.Identity(), [torch.arange(4)])


def test_accuracy_counts_and_puts_the_flags_back():
    dense, _ = tables()
    target = torch.as_tensor(np.random.default_rng(1).integers(0, 7, 200))
    model = nn.Sequential(Table(dense), nn.Dropout(0.9))
    model[0].eval()
    found = accuracy(
        model, [(torch.arange(150), target[:150]), (torch.arange(150, 200), target[150:])]
    )
    assert found == pytest.approx((dense.argmax(1) == target.numpy()).mean())
    assert (model.training, model[0].training, model[1].training) == (True, False, True)


def test_accuracy_refuses_what_it_cannot_count():
    model = Table(np.zeros((4, 5)))
    with pytest.raises(InputError, match="needs labels"):
        accuracy(model, [torch.arange(4)])
    with pytest.raises(InputError, match="do not fit"):
        accuracy(model, [(torch.arange(4), torch.zeros(4, 5, dtype=torch.long))])
    with pytest.raises(InputError, match="empty"):
        accuracy(model, [])


def test_main_output_finds_the_answer_or_says_so():
    x = torch.zeros(2, 3)

    class Answer:
        logits = x

    for output in (x, Answer(), {"out": x, "aux": None}, (x, None), [x]):
        assert main_output(output) is x
    with pytest.raises(InputError, match="returned dict"):
        main_output({"boxes": x})
