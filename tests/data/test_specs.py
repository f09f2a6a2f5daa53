"""What every data spec has in common: folds, limits, repeats, epochs, descriptions, refusals."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sprig.core.errors import InputError
from sprig.data import KNOWN, load
from sprig.data.batches import Batches, check_fold, choose, random_seed

USER = """
import torch
from torch.utils.data import TensorDataset

def dataset(split):
    numbers = torch.arange(10.0 if split == "train" else 4.0)
    return TensorDataset(numbers[:, None], numbers.long())

def batches(*, batch_size, seed):
    return [torch.full((batch_size, 1), float(seed + n)) for n in range(3)]

def stream():
    return ({"x": torch.full((2, 1), float(n))} for n in range(5))

def wide(*, views, fold, limit):
    return [torch.full((limit, views), float(fold[0]))]

def nothing():
    return []

def number():
    return 3
"""


@pytest.fixture
def user(tmp_path: Path) -> str:
    path = tmp_path / "user_data.py"
    path.write_text(USER)
    return str(path)


@pytest.mark.parametrize("split", ["train", "calibration", "test"])
def test_two_passes_and_two_loads_give_the_same_bits(split: Any) -> None:
    first, second = (load("digits", split=split, batch_size=50, limit=120) for _ in range(2))
    assert first.digest() == first.digest() == second.digest()
    assert first.description == second.description
    assert len(first) == len(list(first))
    assert first.samples == sum(len(x) for x, _ in first)


def test_seed_changes_the_order_of_training_and_calibration_only() -> None:
    def digest(split: Any, seed: int) -> str:
        return load("digits", split=split, limit=100, seed=seed).digest()

    assert digest("train", 0) != digest("train", 1)
    assert digest("calibration", 0) != digest("calibration", 1)
    assert digest("test", 0) == digest("test", 1)


def test_epochs_shuffle_anew_and_can_be_had_again() -> None:
    train = load("digits", split="train", batch_size=100)
    digests = [train.epoch(n).digest() for n in (0, 1, 1)]
    assert digests[0] == train.digest()
    assert digests[1] == digests[2] != digests[0]
    assert len(train) == 14  # 1437 samples: the last 37 wait for another epoch
    assert [len(x) for x, _ in train] == [100] * 14


def test_held_batches_survive_a_model_that_works_in_place() -> None:
    batches = load("digits", limit=10)
    assert batches.hold
    before = batches.digest()
    for x, _ in batches:
        x.zero_()
    assert batches.digest() == before


def test_folds_are_complementary_halves() -> None:
    def rows(fold: str | None) -> list[tuple[float, ...]]:
        return [tuple(r.tolist()) for x, _ in load("digits", fold=fold) for r in x.flatten(1)]

    halves = [rows("0/2"), rows("1/2")]
    assert sorted(halves[0] + halves[1]) == sorted(rows(None))
    assert abs(len(halves[0]) - len(halves[1])) <= 1


def test_choose_takes_what_it_says() -> None:
    assert choose(7, fold=(0, 3), limit=None, shuffle=None).tolist() == [0, 3, 6]
    assert choose(100, fold=None, limit=4, shuffle=None).tolist() == [0, 25, 50, 75]
    mixed = choose(50, fold=(1, 2), limit=20, shuffle=4)
    assert len(set(mixed.tolist())) == 20
    assert np.all(mixed % 2 == 1)
    assert mixed.tolist() != sorted(mixed.tolist())


def test_seeds_are_mixed_and_do_not_collide() -> None:
    seeds = {random_seed(a, b, c) for a in range(10) for b in range(10) for c in range(10)}
    assert len(seeds) == 1000
    assert random_seed(1, 12) != random_seed(11, 2)
    assert all(0 <= s < 2**63 for s in seeds)


def test_description_says_what_a_certificate_needs() -> None:
    text = load("digits", limit=64, views=2, seed=5, fold="0/2", batch_size=32).description
    for part in (
        "digits of scikit-learn (1x8x8",
        "calibration split",
        "64 of 1437 samples",
        "fold 0/2",
        "2 views each",
        "batches of 32",
        "seed 5",
    ):
        assert part in text


def test_large_data_is_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sprig.data.batches.HOLD_BYTES", 1000)
    batches = load("digits", limit=100)
    assert not batches.hold
    assert batches.digest() == load("digits", limit=100, hold=True).digest()


def test_user_dataset_is_batched(user: str) -> None:
    batches = load(f"{user}:dataset", split="train", batch_size=4)
    assert [len(x) for x, _ in batches] == [4, 4, 2]
    assert batches.labelled
    assert batches.samples == 10
    assert load(f"{user}:dataset", split="test").samples == 4


def test_user_batches_get_the_options_they_ask_for(user: str) -> None:
    batches = load(f"{user}:batches", batch_size=3, seed=7)
    assert [float(x.mean()) for x in batches] == [7.0, 8.0, 9.0]
    assert not batches.labelled
    assert batches.samples == 9
    (wide,) = load(f"{user}:wide", views=2, fold="1/3", limit=5)
    assert torch.equal(wide, torch.full((5, 2), 1.0))


def test_user_stream_is_held_and_cut(user: str) -> None:
    batches = load(f"{user}:stream", limit=5)
    for _ in range(2):
        assert [b["x"].flatten().tolist() for b in batches] == [[0, 0], [1, 1], [2]]
    odd = load(f"{user}:dataset", split="train", batch_size=3, fold="1/2")
    assert torch.cat([y for _, y in odd]).tolist() == [1, 3, 5, 7, 9]


def test_user_data_too_large_to_hold_is_read_anew(
    user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sprig.data.specs.HOLD_BYTES", 10)
    batches = load(f"{user}:batches", batch_size=3)
    assert not batches.hold
    assert batches.digest() == batches.digest()
    assert load(f"{user}:stream").hold  # it could not be read again


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("nothing", {}, "gave no sample for the calibration split"),
        ("number", {}, "gave a int, expected batches or a Dataset"),
        ("stream", {"views": 2}, "takes no `views`"),
        ("missing", {}, "has no 'missing'"),
    ],
)
def test_user_functions_that_do_not_fit(user: str, name: str, options: Any, text: str) -> None:
    with pytest.raises(InputError, match=text):
        load(f"{user}:{name}", **options)


@pytest.mark.parametrize(
    "spec", ["", "digit", "imagefolder", "imagefolder:", "torchvision:CIFAR10"]
)
def test_unknown_specs_list_the_known_ones(spec: str) -> None:
    with pytest.raises(InputError, match="unknown data") as caught:
        load(spec)
    assert all(known in str(caught.value) for known in KNOWN)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"split": "holdout"}, "split 'holdout': expected train, test or calibration"),
        ({"batch_size": 0}, "batch_size is 0, expected at least 1"),
        ({"limit": 0}, "limit is 0, expected at least 1"),
        ({"views": -1}, "views is -1, expected at least 1"),
        ({"fold": "2/2"}, "fold '2/2': expected i/n with 0 <= i < n"),
        ({"fold": "half"}, "fold 'half'"),
        ({"fold": (1,)}, "fold .*expected i/n"),
        ({"fold": "1700/1800"}, "nothing is left of 1437 samples in this fold"),
    ],
)
def test_options_that_make_no_sense(options: Any, text: str) -> None:
    with pytest.raises(InputError, match=text):
        load("digits", **options)


@pytest.mark.parametrize("spec", ["digits:big", "digits:0"])
def test_a_size_of_digits_is_a_number(spec: str) -> None:
    with pytest.raises(InputError, match="expected digits or digits:SIZE"):
        load(spec)


def test_batches_hold_reads_their_source_once() -> None:
    reads = []

    def make(epoch: int) -> Iterator[torch.Tensor]:
        reads.append(epoch)
        yield torch.ones(2, 1)

    held = Batches(make, 1, 2, "ones", hold=True)
    assert len(list(held)) == len(list(held)) == 1
    assert reads == [0]
    list(held.epoch(4))
    assert reads == [0, 4]
    assert check_fold((1, 3)) == (1, 3)


def test_folds_and_limits_of_a_function_keep_the_views_of_a_sample_together(tmp_path: Path) -> None:
    path = tmp_path / "views_data.py"
    path.write_text(
        "import torch\n"
        "def films(*, views):\n"
        "    numbers = torch.arange(10.0).repeat_interleave(views)[:, None]\n"
        "    return list(numbers.split(7))\n"
    )

    def seen(**options: Any) -> list[float]:
        batches = load(f"{path}:films", **options)
        return [float(n) for batch in batches for n in batch.flatten()]

    assert load(f"{path}:films", views=3).views == 3
    assert seen(views=3, fold="1/2") == [n for n in (1.0, 3.0, 5.0, 7.0, 9.0) for _ in range(3)]
    assert seen(views=3, limit=2) == [0.0] * 3 + [1.0] * 3
    assert set(seen(views=3, fold="0/2")).isdisjoint(seen(views=1, fold="1/2"))


@pytest.mark.parametrize("made", ["Views(batches, 3)", "Own(batches)"])
def test_a_function_may_say_itself_how_many_views_it_gives(tmp_path: Path, made: str) -> None:
    path = tmp_path / "own_views.py"
    path.write_text(
        "import torch\n"
        "from sprig.data import Views\n"
        "class Own(list):\n"
        "    views = 3\n"
        "def films(split):\n"
        "    batches = list(torch.arange(8.0).repeat_interleave(3)[:, None].split(7))\n"
        f"    return {made}\n"
    )
    found = load(f"{path}:films", fold="1/2")
    assert found.views == 3
    assert {float(n) for batch in found for n in batch.flatten()} == {1.0, 3.0, 5.0, 7.0}
    assert load(f"{path}:films", split="train").views == 1
