"""What the user may hand in as data, what is refused, and that reading twice gives the same."""

from collections import UserDict
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from sprig.core.batches import (
    ImageSpec,
    Triples,
    as_batches,
    check_finite,
    count,
    digest,
    map_tensors,
    unpack,
)
from sprig.core.errors import InputError
from sprig.core.inputs import by_key, check_inputs

X, Y, Z = torch.arange(6.0).reshape(2, 3), torch.tensor([0, 1]), torch.ones(2, 4)


@pytest.mark.parametrize(
    ("batch", "args", "kwargs", "target"),
    [
        (X, (X,), {}, None),
        ((X, Y), (X,), {}, Y),
        ([X, Y], (X,), {}, Y),
        ((X,), (X,), {}, None),
        (((X, Z), Y), (X, Z), {}, Y),
        ({"a": X, "b": Z}, (), {"a": X, "b": Z}, None),
        ({"a": X, "labels": Y}, (), {"a": X}, Y),
        (UserDict({"a": X, "label": Y}), (), {"a": X}, Y),
        (({"a": X}, Y), (), {"a": X}, Y),
        (({"a": X, "target": Y},), (), {"a": X}, Y),
    ],
)
def test_unpack(batch: Any, args: Any, kwargs: Any, target: Any) -> None:
    got = unpack(batch)
    assert all(a is b for a, b in zip(got[0], args, strict=True))
    assert got[1].keys() == kwargs.keys()
    assert all(got[1][k] is kwargs[k] for k in kwargs)
    assert got[2] is target


@pytest.mark.parametrize("batch", [3, "text", (X, Z, Y), (1, Y), ()])
def test_unpack_refuses(batch: Any) -> None:
    with pytest.raises(InputError, match=r"a batch is a .*expected a tensor, an \(input, target\)"):
        unpack(batch)


def test_a_generator_is_read_once_and_held() -> None:
    reads = []

    def once() -> Iterator[Tensor]:
        for number in range(3):
            reads.append(number)
            yield torch.full((2, 1), float(number))

    triples = as_batches(once())
    passes = [[float(args[0].sum()) for args, _, _ in triples] for _ in range(2)]
    assert passes == [[0.0, 2.0, 4.0]] * 2
    assert reads == [0, 1, 2]
    assert len(triples) == 3


def test_a_shuffling_loader_is_held_and_a_plain_one_is_not() -> None:
    rows = TensorDataset(torch.arange(64.0)[:, None])
    shuffled = as_batches(DataLoader(rows, batch_size=8, shuffle=True))
    assert isinstance(shuffled.source, list)
    assert shuffled.digest() == shuffled.digest()
    plain = DataLoader(rows, batch_size=8)
    assert as_batches(plain).source is plain
    assert isinstance(as_batches(plain, hold=True).source, list)
    assert as_batches(DataLoader(rows, shuffle=True), hold=False).digest() != shuffled.digest()


def test_one_tensor_or_dict_is_one_batch() -> None:
    assert len(as_batches(X)) == 1
    assert len(as_batches({"a": X})) == 1
    assert as_batches(as_batches(X)).description == "user's list"


def test_length_without_len_is_counted() -> None:
    class Endless:
        def __iter__(self) -> Iterator[Tensor]:
            return iter([X, X])

    assert len(as_batches(Endless())) == 2


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (TensorDataset(X), "gives single samples; wrap it: torch.utils.data.DataLoader"),
        ((X, Y), r"one \(input, target\) pair; expected batches: wrap it as"),
        (7, "data is a int; expected an iterable of batches"),
    ],
)
def test_as_batches_refuses(data: Any, text: str) -> None:
    with pytest.raises(InputError, match=text):
        as_batches(data)


@pytest.mark.parametrize("data", [[], iter([])])
def test_empty_data_is_refused(data: Any) -> None:
    with pytest.raises(InputError, match="the data is empty; expected at least one batch"):
        list(as_batches(data))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    broken = X.clone()
    broken[1, 2] = bad
    with pytest.raises(InputError, match="batch 1 of the data holds 1 values that are NaN or inf"):
        list(as_batches([X, broken]))
    with pytest.raises(InputError, match="the data holds 1 values"):
        check_finite(((), {"a": broken}, None))
    check_finite(((X,), {}, broken))  # a target is not given to the model


def test_a_batch_without_a_tensor_is_refused() -> None:
    with pytest.raises(InputError, match="a batch holds no tensor"):
        count(((), {}, None))
    assert count(((torch.tensor(1.0),), {}, None)) == 1


def check_batch(batch: Any, example: Any, *, exact: bool = True) -> None:
    """A batch beside the example that the model was traced with."""
    args, kwargs, _ = unpack(batch)
    wanted = example if isinstance(example, dict) else dict(enumerate(example))
    check_inputs(by_key(args, kwargs), wanted, exact=exact)


def test_check_batch_takes_what_fits() -> None:
    example = torch.zeros(1, 3, 8, 8)
    check_batch(torch.zeros(5, 3, 8, 8), (example,))
    check_batch(torch.zeros(5, 3, 9, 9), (example,), exact=False)
    check_batch({"a": torch.zeros(5, 7), "labels": Y}, {"a": torch.zeros(1, 7)})
    check_batch(((X, 3), Y)[0][:1], (X,))


@pytest.mark.parametrize(
    ("batch", "text"),
    [
        (torch.zeros(5, 1, 8, 8), "has 1 channels, the model expects 3 .*build the model for 1"),
        (torch.zeros(5, 3, 8), "has 3 dimensions, the model expects 4"),
        (torch.zeros(5, 3, 9, 8), r"of size \(9, 8\), the model was traced with \(8, 8\)"),
        (torch.zeros(5, 3, 8, 8, dtype=torch.int64), "is torch.int64, the model expects torch.flo"),
        ({"a": X}, r"gives the inputs \['a'\], the model was traced with \[0\]"),
        (((X, X), Y), r"gives the inputs \[0, 1\], the model was traced with \[0\]"),
    ],
)
def test_check_batch_refuses(batch: Any, text: str) -> None:
    with pytest.raises(InputError, match=text):
        check_batch(batch, (torch.zeros(1, 3, 8, 8),))


def test_check_batch_speaks_of_features_without_pixels() -> None:
    with pytest.raises(InputError, match="has 3 features, the model expects 4"):
        check_batch(X, (Z,))


def test_digest_sees_bytes_shapes_kinds_and_order() -> None:
    def of(*batches: Any) -> str:
        return digest(Triples(list(batches), ""))

    same = of(X, Z)
    assert same == of(X.clone(), Z.t().contiguous().t())
    changed = X.clone()
    changed[0, 0] += 1
    others = [of(Z, X), of(changed, Z), of(X.reshape(3, 2), Z), of(X.double(), Z), of((X, Y), Z)]
    assert len({same, *others}) == 6


def test_map_tensors_keeps_the_shape_of_things() -> None:
    assert map_tensors({"a": [torch.ones(1), 3], "b": "c"}, lambda t: t * 2) == {
        "a": [torch.tensor([2.0]), 3],
        "b": "c",
    }


def test_image_spec_fill_keeps_what_is_said() -> None:
    filled = ImageSpec(size=(4, 4)).fill(ImageSpec(size=(8, 8), mean=(0.5,)))
    assert filled == ImageSpec(size=(4, 4), mean=(0.5,))
