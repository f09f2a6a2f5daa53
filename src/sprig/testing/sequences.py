"""Toys with recurrent layers. See `sprig.testing.toys`."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Reader(nn.Module):
    """A convolution, a recurrent layer, a feed-forward block: hidden features leave with all their gates."""

    def __init__(self, kind: Any = nn.LSTM, **settings: Any) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 6, 3, padding=1)
        self.rnn = kind(6, 5, batch_first=True, **settings)
        wide = 10 if settings.get("bidirectional") else settings.get("proj_size", 5)
        self.up, self.head = nn.Linear(wide, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x, _ = self.rnn(F.relu(self.conv(x)).transpose(1, 2))
        return self.head(F.relu(self.up(x)))


class Translator(nn.Module):
    """One recurrent layer hands its last state to another; the first states of the encoder are learned."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(11, 7)
        self.encode, self.decode = nn.GRU(7, 5), nn.GRU(7, 5, bias=False)
        self.start = nn.Parameter(torch.randn(1, 1, 5))
        self.head = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        words = self.words(x).transpose(0, 1)
        _, state = self.encode(words, self.start.expand(-1, x.shape[0], -1).contiguous())
        y, _ = self.decode(words.flip(0), state)
        return self.head(y)


def translator() -> nn.Module:
    return Translator()


translator.lookup = True  # type: ignore[attr-defined]


class Steps(nn.Module):
    """Cells in a loop."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.first, self.second = nn.Linear(3, 6), nn.LSTMCell(6, 5), nn.GRUCell(5, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.enter(x))
        one, two = None, None
        for t in range(x.shape[1]):
            one = self.first(x[:, t], one)
            two = self.second(one[0], two)
        return self.head(two)
