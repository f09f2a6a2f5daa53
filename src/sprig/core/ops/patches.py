"""Rows for operations that turn pixels into channels and back: shuffles of pixels, patches taken out and put back."""

from typing import Any

import numpy as np
from torch import fx

from sprig.core.ops.flow import Flow, Labels


def pixel_shuffle(flow: Flow, node: fx.Node) -> Labels:
    """Each r x r channels in a row become one, so they leave together."""
    labels, channel, _, new = _pixels(flow, node)
    if labels.shape[channel] == 1:
        return labels
    blocks = labels.reshape(*labels.shape[:channel], new, -1, 1, 1)
    blocks = flow.whole(blocks, [channel + 1], node, "channels become pixels")
    return np.take(blocks, 0, axis=channel + 1)


def pixel_unshuffle(flow: Flow, node: fx.Node) -> Labels:
    labels, channel, old, new = _pixels(flow, node)
    return np.repeat(labels, new // old, axis=channel) if labels.shape[channel] > 1 else labels


def _pixels(flow: Flow, node: fx.Node, *, rows: int = 3) -> tuple[Labels, int, int, int]:
    """Labels that do not vary over pixels; which dimension the channels are, how many come in and go out."""
    x = node.args[0]
    old: tuple[int, ...] = flow.shape(x)  # type: ignore[arg-type]
    labels = flow.labels(x)  # type: ignore[arg-type]
    labels = flow.whole(labels, [-1, -2], node, "pixels become channels")
    channel = len(old) - 3
    return labels, channel, old[channel], flow.shape(node)[-rows]


def im2col(flow: Flow, node: fx.Node) -> Labels:
    """Patches as columns: each channel comes once per place in the patch, one after the other."""
    labels, _, old, new = _pixels(flow, node, rows=2)
    if labels.shape[-3] > 1:
        labels = np.repeat(labels, new // old, axis=-3)
    return np.take(labels, 0, axis=-1)  # places become one dimension


def col2im(flow: Flow, node: fx.Node) -> Labels:
    """Overlapping patches are added up: the places of one channel leave together."""
    x = node.args[0]
    labels = flow.labels(x)  # type: ignore[arg-type]
    labels = flow.whole(labels, [-1], node, "patches become pixels")
    new = int(node.meta["val"].shape[-3])
    if labels.shape[-2] > 1:
        blocks = labels.reshape(*labels.shape[:-2], new, -1, 1)
        blocks = flow.whole(blocks, [-2], node, "places of a patch become pixels")
        labels = np.take(blocks, [0], axis=-2).reshape(*labels.shape[:-2], -1, 1)
    return np.expand_dims(labels, -1)


def unfold(flow: Flow, node: fx.Node) -> Labels:
    """Windows along one dimension, which become a dimension of their own, the last."""
    labels = flow.labels(node.args[0])  # type: ignore[arg-type]
    labels = flow.whole(labels, [int(node.args[1])], node, "windows over the channels")  # type: ignore[arg-type]
    return np.expand_dims(labels, -1)


ROWS: dict[str, Any] = {
    "unfold": unfold,
    "pixel_shuffle": pixel_shuffle,
    "pixel_unshuffle": pixel_unshuffle,
    "im2col": im2col,
    "col2im": col2im,
}
