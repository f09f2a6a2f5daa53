"""Tiny networks, one per topology, and what tracing must find in each: the literal table TOYS.

Each takes milliseconds. `prunable` names the groups that may be pruned, `says` a part of the reason why others may
not; a network that cannot be captured at all has `error`, a part of the message. Write a new row of the op table
together with a toy that needs it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sprig.testing import blocks, decoders, hard, heads, moves, patches, queries, sequences, tokens


@dataclass(frozen=True)
class Toy:
    """One network, an input for it, and what must be found."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]  # of the one input
    prunable: tuple[str, ...] = ()
    says: str | None = None  # in the reason of at least one group
    error: str | None = None  # in the message of the TraceError

    def example(self, generator: torch.Generator | None = None) -> tuple[Tensor, ...]:
        """Inputs of the right shape; whole numbers where the network looks something up."""
        if getattr(self.make, "lookup", False):
            return (torch.randint(0, 11, self.shape, generator=generator),)
        return (torch.randn(self.shape, generator=generator),)


IMAGE = (3, 3, 8, 8)

TOYS: dict[str, Toy] = {
    # ---- plain
    "chain": Toy(blocks.chain, IMAGE, ("0", "3")),
    "mlp": Toy(blocks.mlp, (5, 6), ("0", "2")),
    "flatten": Toy(blocks.flatten, IMAGE, ("0",)),
    "conv1d": Toy(blocks.conv1d, (3, 2, 12), ("0", "2")),
    "conv3d": Toy(blocks.conv3d, (2, 2, 4, 5, 6), ("0", "3")),
    "prelu": Toy(blocks.prelu, IMAGE, ("0",)),
    "group_norm": Toy(blocks.group_norm, IMAGE, ("0",)),
    "layer_norm": Toy(
        tokens.LayerNormStream, (2, 5, 6), ("up",), says="normalised over the channels"
    ),
    "instance_norm": Toy(blocks.instance_norm, IMAGE, ("0",)),
    # ---- streams and branches
    "residual": Toy(blocks.Residual, IMAGE, ("stem", "first", "third")),
    "bottleneck": Toy(blocks.Bottleneck, IMAGE, ("stem", "down", "middle")),
    "projection": Toy(blocks.Projection, IMAGE, ("stem", "first", "second")),
    "dense": Toy(blocks.Dense, IMAGE, ("stem", "first", "second")),
    "inception": Toy(blocks.Inception, IMAGE, ("stem", "one", "reduce", "three", "pooled")),
    "squeeze_excite": Toy(blocks.SqueezeExcite, IMAGE, ("widen", "squeeze", "narrow")),
    "resnext": Toy(blocks.ResNeXt, IMAGE, ("stem", "down")),
    "shuffle": Toy(blocks.Shuffle, IMAGE, ("stem", "a")),
    "shuffle_thrice": Toy(blocks.shuffle_thrice, IMAGE, ("a",), says="only leave together"),
    "shared": Toy(blocks.Shared, IMAGE, ("stem",)),
    "tied": Toy(blocks.Tied, (4, 6), ("enter", "first")),
    "tied_decoder": Toy(blocks.TiedDecoder, (4, 6), ("enter", "encode")),
    "auxiliary": Toy(blocks.Auxiliary, IMAGE, ("stem", "body")),
    # ---- larger maps by transposed convolutions
    "unet": Toy(
        decoders.UNet,
        IMAGE,
        (
            "first.0",
            "second.0",
            "bottom.0",
            "up_second",
            "join_second.0",
            "up_first",
            "join_first.0",
        ),
    ),
    "generator": Toy(decoders.generator, (3, 5, 1, 1), ("0", "3")),
    "segmenter": Toy(decoders.Segmenter, IMAGE, ("down", "deep", "wide")),
    "wave": Toy(decoders.wave, (3, 2, 16), ("0", "2")),
    "volume": Toy(decoders.volume, (2, 2, 4, 6, 6), ("0", "2")),
    # ---- parameters outside of layers
    "layer_scale": Toy(tokens.LayerScale, IMAGE, ("stem", "up")),
    "position": Toy(tokens.Position, (2, 3, 4, 4), ("stem", "up")),
    "attention": Toy(partial(heads.Block, heads.Fused), (2, 5, 8), ("attend.qkv", "up")),
    "heads_apart": Toy(partial(heads.Block, heads.Separate), (2, 5, 8), ("attend.q", "up")),
    "heads_grouped": Toy(partial(heads.Block, heads.Grouped, 4), (2, 5, 8), ("attend.q", "up")),
    "heads_inner": Toy(partial(heads.Block, heads.Inner), (2, 5, 8), ("attend.v", "up")),
    "heads_crossed": Toy(partial(heads.Block, heads.Crossed), (2, 5, 8), ("attend.qkv", "up")),
    "pixels": Toy(moves.Pixels, IMAGE, ("stem", "fine", "coarse")),
    "folded": Toy(moves.Folded, IMAGE, ("stem", "fine")),
    "repeats": Toy(moves.Repeats, IMAGE, ("stem", "twice", "wide")),
    "quiet": Toy(moves.Quiet, IMAGE, ("stem", "more")),
    "heads_shared": Toy(partial(heads.Block, heads.Shared), (2, 5, 8), ("attend.q", "up")),
    "heads_joined": Toy(partial(heads.Block, heads.Joined), (2, 5, 8), ("attend.qkv", "up")),
    "heads_placed": Toy(partial(heads.Block, heads.Placed), (2, 5, 8), ("attend.qkv", "up")),
    "heads_stored": Toy(partial(heads.Block, heads.Stored), (2, 5, 8), ("attend", "up")),
    "heads_stuck": Toy(
        partial(heads.Block, heads.Stuck),
        (2, 5, 8),
        ("up",),
        says="stopped in attend; testing/heads.py:",
    ),
    "heads_even": Toy(partial(heads.Block, queries.Evened), (2, 5, 8), ("attend.q", "up")),
    "heads_alone": Toy(partial(heads.Block, queries.Alone), (2, 5, 8), ("attend.q", "up")),
    "heads_ranges": Toy(partial(heads.Block, queries.Ranges), (2, 5, 8), ("attend.qkv", "up")),
    "heads_unlike": Toy(partial(heads.Block, queries.Unlike), (2, 5, 8), ("attend.qkv", "up")),
    "turned": Toy(queries.Turned, (4, 6), ("first", "second", "third")),
    "shares": Toy(queries.Shares, IMAGE, ("enter",)),
    "offered": Toy(queries.Offered, (4, 6), ("enter",)),
    "words": Toy(tokens.words, (3, 7), ("words", "up")),
    "clip": Toy(tokens.Clip, IMAGE, ("conv",)),
    "patches": Toy(patches.Patches, IMAGE, ("stem", "mix", "back", "last")),
    "selective": Toy(patches.Selective, IMAGE, ("stem", "near", "squeeze")),
    "talking_heads": Toy(
        partial(heads.Block, patches.TalkingHeads), (2, 5, 8), ("attend.qkv", "attend.before", "up")
    ),
    "class_attention": Toy(
        partial(heads.Block, patches.ClassAttention), (2, 5, 8), ("attend.q", "up")
    ),
    "rms_norm": Toy(
        patches.RootMeanSquare,
        (2, 5, 6),
        ("gate",),
        says="normalised over the channels (rms_norm in norm",
    ),
    "speaker": Toy(patches.speaker, (2, 5), ("words", "up")),
    # ---- recurrent layers
    "lstm": Toy(sequences.Reader, (2, 3, 7), ("conv", "rnn", "up")),
    "lstm_deep": Toy(
        partial(sequences.Reader, num_layers=2, bidirectional=True, bias=False),
        (2, 3, 7),
        ("conv", "rnn", "up"),
    ),
    "lstm_projected": Toy(
        partial(sequences.Reader, proj_size=3), (2, 3, 7), ("conv", "up"), says="with a projection"
    ),
    "rnn": Toy(
        partial(sequences.Reader, nn.RNN, nonlinearity="relu"), (2, 3, 7), ("conv", "rnn", "up")
    ),
    "translator": Toy(sequences.translator, (2, 6), ("words", "encode")),
    "cells": Toy(sequences.Steps, (2, 4, 3), ("enter", "first", "second")),
    # ---- values that travel through views, orders and halves
    "swapped": Toy(hard.Swapped, IMAGE, ("a",)),
    "halves": Toy(hard.Halves, IMAGE, ("stem",)),
    "gate": Toy(hard.Gate, IMAGE, ("stem", "mask")),
    "channels_last": Toy(hard.ChannelsLast, IMAGE, ("stem", "up")),
    "folded_batch": Toy(hard.FoldedBatch, IMAGE, ("stem",)),
    "added_branches": Toy(hard.AddedBranches, IMAGE, ("a",)),
    "zero_branch": Toy(hard.ZeroBranch, IMAGE, (), says="computes something else"),
    "in_place": Toy(hard.InPlace, IMAGE, ("stem",)),
    "twins": Toy(hard.Twins, IMAGE, ("stem",)),
    "products": Toy(hard.Products, (2, 3, 4, 4), ("up",), says="channels meet channels"),
    "dictionary": Toy(hard.Dictionary, IMAGE, ("stem",)),
    # ---- refused, with the reason
    "hard_view": Toy(hard.HardView, IMAGE, ("narrow",), says="(it stopped at testing/hard.py:"),
    "fixed_slice": Toy(hard.FixedSlice, IMAGE, ("last",), says="does not follow a smaller width"),
    "pooled_channels": Toy(hard.PooledChannels, (2, 6, 8), (), says="pooled"),
    "spread": Toy(hard.Spread, IMAGE, (), says="reduced over the channels"),
    "unknown": Toy(
        hard.Unknown,
        IMAGE,
        ("last",),
        says="no row for this operation (cummax in mixer; testing/hard.py:",
    ),
    "control_flow": Toy(hard.ControlFlow, IMAGE, error="hard.py"),
}


def make(name: str, *, seed: int = 0) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A toy with seeded weights, and an example input.

    >>> net, example = make("chain")
    >>> net(*example).shape
    torch.Size([3, 5])
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # layers draw their first weights from the global generator
        net = TOYS[name].make()
    return net, TOYS[name].example(torch.Generator().manual_seed(seed))


def names(**wanted: Any) -> list[str]:
    """Toys of which each given field is (True) or is not (False) set.

    >>> names(error=True)
    ['control_flow']
    """
    return [
        n for n, toy in TOYS.items() if all(bool(getattr(toy, k)) is v for k, v in wanted.items())
    ]
