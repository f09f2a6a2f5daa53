"""Example inputs by position and by name, through every step to the run folder and back."""

import pytest
import torch
from torch import Tensor, nn

import sprig
from sprig.core.certify import probe_inputs
from sprig.core.errors import InputError, StoreError
from sprig.core.example import inputs_of, pack, restore, samples_of
from sprig.core.latency import latency


class Named(nn.Module):
    """Takes keywords only, one of them no tensor, and gives a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 6)
        self.wide, self.out = nn.Linear(6, 24), nn.Linear(24, 3)

    def forward(self, *, ids: Tensor, scale: Tensor, twice: bool = False) -> dict[str, Tensor]:
        x = self.table(ids).mean(1) * scale
        return {"logits": self.out(torch.relu(self.wide(x))) * (2 if twice else 1)}


def inputs(samples: int, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(11, (samples, 5), generator=generator)
    return {"ids": ids, "scale": torch.rand(samples, 1, generator=generator) + 0.5}


def named() -> Named:
    torch.manual_seed(3)
    return Named()


def test_inputs_by_name_go_all_the_way(tmp_path) -> None:
    model, example = named(), {**inputs(2), "twice": True}
    data = [{**inputs(40, seed), "twice": True} for seed in (1, 2)]
    result = sprig.prune(model, example, data, sprig.Budget(macs=0.5), folder=tmp_path / "run")
    assert result.certificate.passed
    assert result.model.wide.out_features < 24
    small = sprig.load(tmp_path / "run", model=model)
    again = small(**example)["logits"]
    assert torch.equal(again, result.model(**example)["logits"])
    checked = sprig.verify(tmp_path / "run", model, data)
    assert checked.passed
    assert {c.name for c in checked.claims} >= {"masked-equals-shrunk-float64", "recount-macs"}
    masked = sprig.mask(model, result.plan, example)
    cut = sprig.shrink(model, result.plan, example)
    torch.testing.assert_close(masked(**example)["logits"], cut(**example)["logits"])


def test_search_takes_inputs_by_name() -> None:
    path = sprig.search(named(), inputs(2), [inputs(40, 1)])
    assert path.at(sprig.Budget(macs=0.5)).keep


def test_same_graph_by_name_and_by_keywords() -> None:
    example = inputs(2)
    assert (
        sprig.trace(named(), example).fingerprint == sprig.trace(named(), (), example).fingerprint
    )


def test_an_input_is_given_once() -> None:
    with pytest.raises(InputError, match="both give ids"):
        inputs_of({"ids": 1}, {"ids": 2})
    with pytest.raises(InputError, match="expected a tuple"):
        inputs_of(torch.zeros(2))  # type: ignore[arg-type]
    assert inputs_of([1, 2]) == ((1, 2), {})  # type: ignore[arg-type]


def test_a_folder_keeps_any_nest() -> None:
    x, y = torch.arange(3), torch.ones(2, 2)
    for example in (
        (x, (y, [x, 4]), "word", None, {"a": y, "b": (0.5,)}),
        {"x": x, "pair": (y, x), "rate": 0.5, "fast": True, "none": None},
    ):
        tensors, form = pack(example)
        assert all(isinstance(t, Tensor) for t in tensors.values())
        back = restore(tensors, form)
        assert type(back) is type(example)
        assert repr(back) == repr(example)
    assert list(pack((x, (y,)))[0]) == ["000", "001.0"]


def test_an_older_folder_has_positions_only() -> None:
    x, y = torch.zeros(1), torch.ones(1)
    assert restore({"001": y, "000": x}, None) == (x, y)


def test_what_a_folder_cannot_hold_is_refused_before_the_work(tmp_path) -> None:
    with pytest.raises(StoreError, match="example input odd is a set"):
        pack({"odd": {1, 2}})
    with pytest.raises(StoreError, match="incomplete"):
        restore({}, {"args": {"tuple": []}, "kwargs": {"dict": {"x": {"tensor": "x"}}}})


def test_probes_keep_whole_numbers_beside_noise() -> None:
    ids, scale, table = torch.arange(4).reshape(2, 2), torch.rand(2, 1), torch.rand(7, 1)
    args, kwargs = probe_inputs({"ids": ids, "scale": scale, "table": table}, 0)
    assert args == ()
    assert torch.equal(kwargs["ids"], torch.cat([ids, ids]))
    assert kwargs["scale"].shape == (4, 1) and torch.equal(kwargs["scale"][:2], scale)
    assert kwargs["table"] is table  # not one entry per sample
    assert probe_inputs((ids,), 0) == ((ids,), {})
    assert samples_of({"ids": ids}) == 2 and samples_of((3,)) == 1


def test_time_of_a_call_by_name() -> None:
    seen = []
    model = named()
    model.register_forward_pre_hook(
        lambda m, args, kwargs: seen.append(len(kwargs["ids"])), with_kwargs=True
    )
    row = latency(model, inputs(2), batch=5, repeats=3)
    assert row["low"] <= row["median"] <= row["high"]
    assert set(seen) == {5}


def test_batches_are_held_against_the_example() -> None:
    short = {k: v[:, :3] if k == "ids" else v for k, v in inputs(4, 1).items()}
    with pytest.raises(InputError, match=r"a batch has 3 tokens, the example 5; pad"):
        sprig.search(named(), inputs(2), [short])
    with pytest.raises(InputError, match="gives the inputs"):
        sprig.search(named(), inputs(2), [{"ids": inputs(4)["ids"]}])
