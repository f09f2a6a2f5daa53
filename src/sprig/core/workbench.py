"""Everything a method may look at: the model, its graph, the calibration data in chunks, and a replay of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from sprig.core.batches import Triple, by_key, check_inputs
from sprig.core.cost import cost
from sprig.core.errors import InputError
from sprig.core.padding import Masks, live_tokens, token_masks
from sprig.core.replay import Chunk, Replay, chunks, state_of
from sprig.core.types import Graph

Progress = Callable[[str, int, int], None]  # what, done, of how many

MEMORY = 1.5e9  # bytes of calibration inputs and activations that one chunk may hold


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

    def __post_init__(self) -> None:
        for name, tensor in state_of(self.model).items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                bad = int((~torch.isfinite(tensor)).sum())
                raise InputError(
                    f"the weights hold {bad} NaN or infinite values in {name}; load a healthy checkpoint"
                )

    def generator(self, salt: int = 0) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed * 1_000_003 + salt)

    @property
    def samples(self) -> int:
        return sum(c.rows for c in self.chunks)

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """The dense network's parameters and buffers."""
        return state_of(self.model)

    @cached_property
    def chunks(self) -> list[Chunk]:
        return chunks(self.triples, self.size)

    @cached_property
    def size(self) -> int:
        """Samples per chunk: what fits, evened out over the data so that little is filled up."""
        total = sum(int(_first(t).shape[0]) for t in self.triples)
        per_sample = 12 * _bytes(_first(self.triples[0])[:1])
        fit = int(max(1, min(16, MEMORY // max(per_sample * 8, 1))))
        pieces = max(-(-total // fit), min(4, total))  # four at least: one judges the others
        return -(-total // pieces)

    @cached_property
    def replay(self) -> Replay:
        first = self.chunks[0]
        return Replay(self.model, first.args, first.kwargs)

    @cached_property
    def macs(self) -> int:
        return cost(self.graph)["macs"]

    def masks(self, chunk: Chunk) -> Masks:
        """The attention masks of a chunk's inputs."""
        return token_masks(self.model, chunk.args, chunk.kwargs)

    def live_tokens(self, chunk: Chunk, x: Tensor, layer: str) -> Tensor | None:
        """Which rows of a layer's input or output (batch, tokens, features) are no padding; None: all."""
        if x.dim() != 3 or x.shape[0] != self.replay.batch:
            return None
        return live_tokens(self.masks(chunk), x, layer)

    def check(self, example: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None) -> None:
        wanted = by_key(example, kwargs or {})
        for args, given, _ in self.triples:
            check_inputs(by_key(args, given), wanted)


def _first(triple: Triple) -> Tensor:
    found: list[Tensor] = [t for t in _leaves(triple) if t.dim()]
    return found[0]


def _leaves(triple: Triple) -> list[Tensor]:
    from torch.utils import _pytree as pytree

    return [t for t in pytree.tree_leaves((triple[0], triple[1])) if isinstance(t, Tensor)]


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
