"""Everything a method may look at: the model, its graph, the calibration data in chunks, and a replay of it."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from sprig.core.batches import Triple, count
from sprig.core.chunks import Chunk, chunks
from sprig.core.cost import cost
from sprig.core.deal import Dealt, chunk_size
from sprig.core.errors import InputError
from sprig.core.inputs import by_key, check_inputs
from sprig.core.padding import Masks, live_tokens, token_masks
from sprig.core.ranks import ALONE, Ranks
from sprig.core.replay import Replay, state_of
from sprig.core.types import Graph

Progress = Callable[[str, int, int], None]  # what, done, of how many


def silent(what: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


@dataclass
class Workbench:
    """One model on one set of calibration data. The model is only read."""

    model: nn.Module  # in eval mode, a copy of the user's
    graph: Graph
    triples: list[Triple]
    seed: int = 0
    progress: Progress = field(default=silent)
    scratch: dict[str, Any] = field(
        default_factory=dict
    )  # what a method wants to find again, e.g. its moments
    inner: bool = False  # the model is a part of a larger one: its outputs are no class scores
    ranks: Ranks = ALONE  # the processes that share the work
    dealt: Dealt | None = None  # with several processes, in place of `triples`
    views: int = (
        1  # so many samples in a row are one thing seen in different ways, see `as_batches`
    )
    _masks: WeakKeyDictionary[Chunk, Masks] = field(
        init=False, repr=False, default_factory=WeakKeyDictionary
    )

    def __post_init__(self) -> None:
        for name, tensor in state_of(self.model).items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                bad = int((~torch.isfinite(tensor)).sum())
                raise InputError(
                    f"the weights hold {bad} NaN or infinite values in {name}; load a healthy checkpoint"
                )

    def generator(self, salt: int = 0, *at: int) -> torch.Generator:
        """A stream of random numbers; `at`: one of its own for each piece of work, whoever does it."""
        number = self.seed * 1_000_003 + salt
        if at:
            text = "/".join(str(n) for n in (number, *at))
            number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
        return torch.Generator().manual_seed(number)

    @property
    def samples(self) -> int:
        """Of all processes together."""
        return sum(c.rows for c in self.chunks) if self.dealt is None else self.dealt.samples

    @property
    def pieces(self) -> int:
        """Chunks of all processes together."""
        return len(self.chunks) if self.dealt is None else self.dealt.pieces

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """The dense network's parameters and buffers."""
        return state_of(self.model)

    @cached_property
    def chunks(self) -> list[Chunk]:
        """Those that are this process's."""
        if self.dealt is not None:
            return self.dealt.chunks
        return chunks(self.triples, self.size)

    @cached_property
    def size(self) -> int:
        """Samples per chunk."""
        return chunk_size(sum(count(t) for t in self.triples), self.triples[0], self.views)

    @cached_property
    def replay(self) -> Replay:
        first = self.chunks[0] if self.dealt is None else self.dealt.first
        return Replay(self.model, first.args, first.kwargs)

    @cached_property
    def macs(self) -> int:
        return cost(self.graph)["macs"]

    def masks(self, chunk: Chunk) -> Masks:
        """The attention masks of a chunk's inputs."""
        if chunk not in self._masks:
            self._masks[chunk] = token_masks(self.model, chunk.args, chunk.kwargs)
        return self._masks[chunk]

    def live_tokens(self, chunk: Chunk, x: Tensor, layer: str) -> Tensor | None:
        """Which rows of a layer's input or output (batch, tokens, features) are no padding; None: all.

        Many models lay the tokens of all samples one behind another: then (batch x tokens, features).
        """
        batch = self.replay.batch
        if x.dim() == 2 and x.shape[0] != batch and x.shape[0] % batch == 0:
            live = live_tokens(self.masks(chunk), x.unflatten(0, (batch, -1)), layer)
            return None if live is None else live.flatten()
        if x.dim() != 3 or x.shape[0] != batch:
            return None
        return live_tokens(self.masks(chunk), x, layer)

    def check(self, example: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None) -> None:
        """Refuse batches that the model cannot take."""
        for triple in self.triples:
            self.check_one(triple, example, kwargs)

    def check_one(
        self, triple: Triple, example: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None
    ) -> None:
        check_inputs(by_key(triple[0], triple[1]), by_key(example, kwargs or {}))
