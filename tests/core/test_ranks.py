"""Where sums and values travel: on the CPU with gloo, through the accelerator where only nccl is there."""

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from sprig.core.errors import RanksError
from sprig.core.ranks import Ranks

CARD = 1  # number of this process's accelerator


class Card:
    """Stands for torch.distributed and an accelerator: a tensor sent there is a copy on the CPU, and noted."""

    def __init__(self, patch: pytest.MonkeyPatch, backends: str) -> None:
        self.there: list[Tensor] = []  # copies that count as on the accelerator
        self.calls: list[tuple[str, bool]] = []  # what was called, on a tensor that is there or not
        self.others: list[Tensor] = []  # what the others add, or what the first process sends
        patch.setattr(dist, "get_backend_config", lambda: backends)
        patch.setattr(dist, "all_reduce", self.all_reduce)
        patch.setattr(dist, "broadcast", self.broadcast)
        patch.setattr(torch.accelerator, "current_device_index", lambda: CARD)
        plain = Tensor.to

        def to(tensor: Tensor, *given: object, **more: object) -> Tensor:
            if given and isinstance(given[0], torch.device) and given[0].type == "cuda":
                assert given[0] == torch.device("cuda", CARD)
                assert tensor.is_contiguous()
                self.there.append(tensor.clone())
                return self.there[-1]
            return plain(tensor, *given, **more)

        patch.setattr(Tensor, "to", to)

    def all_reduce(self, tensor: Tensor) -> None:
        self.calls.append(("all_reduce", any(tensor is t for t in self.there)))
        tensor += self.others.pop(0)

    def broadcast(self, tensor: Tensor, source: int) -> None:
        self.calls.append(("broadcast", any(tensor is t for t in self.there)))
        if source == 0:
            tensor.copy_(self.others.pop(0))


@pytest.mark.parametrize(
    ("backends", "there"), [("cuda:nccl", True), ("cpu:gloo,cuda:nccl", False)]
)
def test_sums_go_through_the_accelerator_only_where_they_must(
    monkeypatch: pytest.MonkeyPatch, backends: str, there: bool
) -> None:
    card = Card(monkeypatch, backends)
    ranks = Ranks(1, 2)
    whole = torch.zeros(3, 4, dtype=torch.float64)
    part = whole.t()  # not contiguous
    part += torch.arange(12.0, dtype=torch.float64).view(4, 3)
    card.others = [torch.full((4, 3), 2.0**52, dtype=torch.float64)]
    assert ranks.add_(part) is part
    assert part.dtype == torch.float64
    assert torch.equal(whole.t(), torch.arange(12.0).double().view(4, 3) + 2.0**52), (
        "exact, and in place"
    )
    card.others = [torch.full((2,), 7.0)]
    assert ranks.spread_(torch.zeros(2)).tolist() == [7.0, 7.0]
    card.others = [torch.ones(1, dtype=torch.float64)]
    ranks.meet()
    assert card.calls == [("all_reduce", there), ("broadcast", there), ("all_reduce", there)]


@pytest.mark.parametrize(
    ("backends", "there"), [("cuda:nccl", True), ("cpu:gloo,cuda:nccl", False)]
)
def test_values_go_the_same_way(
    monkeypatch: pytest.MonkeyPatch, backends: str, there: bool
) -> None:
    sent: list[Tensor] = []
    first = Card(monkeypatch, backends)
    first.broadcast = lambda tensor, source: sent.append(tensor.clone())  # type: ignore[method-assign]
    monkeypatch.setattr(dist, "broadcast", first.broadcast)
    value = {"picks": (3, 1), "gains": torch.tensor([0.5, 2.0])}
    Ranks(0, 2).lead(lambda: value)
    assert len(first.there) == (2 if there else 0), "the length and the bytes"
    other = Card(monkeypatch, backends)
    other.others = sent
    found = Ranks(1, 2).lead(lambda: pytest.fail("the first process computes"))
    assert found["picks"] == (3, 1) and torch.equal(found["gains"], value["gains"])
    assert other.calls == [("broadcast", there)] * 2


def test_a_call_that_fails_says_so_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    card = Card(monkeypatch, "cuda:nccl")

    def broken(tensor: Tensor) -> None:
        raise RuntimeError("NCCL error: remote process exited\nstack\nof calls")

    monkeypatch.setattr(dist, "all_reduce", broken)
    with pytest.raises(RanksError, match="process 1 of 2 cannot reach the others") as told:
        Ranks(1, 2).meet()
    assert "remote process exited" in str(told.value) and "\n" not in str(told.value)
    assert len(card.there) == 1
