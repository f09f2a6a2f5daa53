"""A model that cannot be exported as a whole: its parts can be named, traced and cut, and put back."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sprig
from sprig.core.errors import InputError, TraceError
from sprig.core.parts import part_batches, recorded, traceable


class Stubborn(nn.Module):
    """Its own forward pass depends on values; two of its parts do not."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 5))
        self.moods = nn.ModuleList([Moody(), nn.Linear(5, 5)])
        self.idle = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        x = self.moods[0](x, scale=torch.ones(len(x), 1))
        return self.moods[1](x) if float(x.sum()) > 0 else self.moods[1](-x)


class Moody(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wide, self.out = nn.Linear(5, 12), nn.Linear(12, 5)

    def forward(self, x: Tensor, scale: Tensor, other: Tensor | None = None) -> Tensor:
        if x.max() > 100:
            return x
        return self.out(torch.relu(self.wide(x * scale)))


def stubborn() -> tuple[Stubborn, list[Tensor]]:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    return Stubborn().eval(), [torch.randn(64, 6, generator=generator) for _ in range(3)]


def test_the_error_names_the_parts_that_can_be_traced() -> None:
    model, data = stubborn()
    with pytest.raises(
        TraceError,
        match=r'alone: body, moods\.1; give modules=\["body", "moods\.1"\] \(--modules body',
    ) as caught:
        sprig.trace(model, (data[0][:2],))
    assert "test_parts.py" in str(caught.value)  # and still the line
    found = traceable(model, (data[0][:2],))
    assert list(found) == [
        "body",
        "moods.0",
        "moods.1",
    ]  # in the order of the calls; `idle` is not called
    assert found["body"] is None and "cannot be exported" in (found["moods.0"] or "")


def test_a_model_that_does_not_run_says_only_that() -> None:
    with pytest.raises(TraceError) as caught:
        sprig.trace(nn.Sequential(nn.Linear(3, 3)), (torch.zeros(2, 4),))
    assert "alone" not in str(caught.value)


def test_no_part_can_be_traced() -> None:
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Moody()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x, scale=x[:, :1])

    with pytest.raises(TraceError) as caught:
        sprig.trace(Whole(), (torch.randn(2, 5),))
    assert "alone" not in str(caught.value)


def test_a_part_is_cut_on_what_it_gets_and_put_back() -> None:
    model, data = stubborn()
    before = copy.deepcopy(model.state_dict())
    seen = part_batches(model, "body", data)
    assert [torch.equal(b[0][0], x) for b, x in zip(seen, data, strict=True)] == [True] * 3
    result = sprig.prune(model.body, (data[0][:2],), seen, sprig.Budget(macs=0.5))
    assert result.certificate.passed
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    whole = copy.deepcopy(model)
    whole.body = result.model
    with torch.no_grad():
        error = (whole(data[0]) - model(data[0])).square().sum() / model(data[0]).square().sum()
    assert whole.body[0].out_features <= 12 and 0 < float(error) < 0.5


def test_inputs_by_position_and_name_become_names() -> None:
    model, data = stubborn()
    (batch, *_) = part_batches(model, "moods.0", data)
    assert list(batch) == ["x", "scale"]
    torch.testing.assert_close(batch["x"], model.body(data[0]))


def test_parts_that_are_not_there() -> None:
    model, data = stubborn()
    with pytest.raises(
        InputError, match=r"no submodule 'head'; it has body, moods.0, moods.1, idle"
    ):
        part_batches(model, "head", data)
    with pytest.raises(InputError, match="'idle' is never called"):
        part_batches(model, "idle", data)


class Uneven(nn.Module):
    """Calls its part as `call` says."""

    def __init__(self, call: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.part, self.call = Scaled(), call

    def forward(self, x: Tensor) -> Tensor:
        y = self.call(self.part, x)
        return y if float(y.detach().sum()) < 1e9 else -y


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wide, self.out = nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor, by: Tensor | float = 1.0) -> Tensor:
        return self.out(torch.relu(self.wide(x))) * by


def heard(call: Callable[[nn.Module, Tensor], Tensor], data: list[Tensor]) -> list[Any]:
    model = Uneven(call)
    graph = sprig.trace(model, (data[0],), modules=["part"])
    return recorded(graph.parts[0], model, [((x,), {}, None) for x in data])


def test_batches_of_any_size_are_recorded_those_that_miss_the_part_left_out() -> None:
    def some(part: nn.Module, x: Tensor) -> Tensor:
        if float(x.sum()) < 0:
            return x
        return x.index_add(0, (x[:, 0] > 0).nonzero()[:, 0], part(x[x[:, 0] > 0]))

    data = [torch.ones(2, 4), torch.ones(5, 4), -torch.ones(3, 4), torch.tensor([[-1.0, 9, 9, 9]])]
    assert [len(args[0]) for args, _, _ in heard(some, data)] == [2, 5]


def test_parts_that_are_called_unlike_the_example_are_refused() -> None:
    ones = torch.ones(2, 4)
    shapes = r"differing shapes: \(2, 3, 4\) on the example, \(2, 5, 4\) on the data"
    with pytest.raises(InputError, match=shapes):
        heard(
            lambda part, x: part(x[:, None].expand(-1, 5 if x.max() > 1 else 3, -1)),
            [ones, 2 * ones],
        )
    with pytest.raises(InputError, match="no entry per sample and differs from call to call"):
        heard(lambda part, x: part(x, x.max()), [ones, 2 * ones])
    with pytest.raises(InputError, match="no entry per sample and differs from call to call"):
        heard(lambda part, x: part(x, float(x.max())), [ones, 2 * ones])
    with pytest.raises(InputError, match="differing arguments"):
        heard(lambda part, x: part(x, by=1.0) if x.max() > 1 else part(x), [ones, 2 * ones])
    with pytest.raises(TraceError, match="is called 2 times in one run"):
        heard(lambda part, x: part(part(x)) if x.max() > 1 else part(x), [ones, 2 * ones])
