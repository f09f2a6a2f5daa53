"""Tensors with many zeros on disk: each dense, as bitmap and values, or as compressed rows, whichever is smallest.

With n entries of b bytes, r rows of c columns, and z of the entries not zero, the bytes are

    dense     n b
    bitmap    n / 8 + z b                     one bit per entry, values in order
    csr16     4 (r + 1) + z (b + 2)           row starts, column numbers in 16 bits: c up to 65,536
    csr32     4 (r + 1) + z (b + 4)

so that the bitmap is smaller than rows with 16 bits while more than 1 in 16 entries is not zero. Rows are those of the
tensor seen as a matrix, (r, all other dimensions). Values come back with the same bits; the sign of a zero does not.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sprig.core.errors import StoreError
from sprig.core.weights import read_all, write_tensors

FORMS = ("dense", "bitmap", "csr16", "csr32")
WIDE = 2**16  # columns that 16 bits can number


def sizes(tensor: Tensor) -> dict[str, int]:
    """Bytes of the tensor in every form that can hold it.

    >>> sizes(torch.eye(20))
    {'dense': 1600, 'bitmap': 130, 'csr16': 204, 'csr32': 244}
    """
    each, count = tensor.element_size(), int((tensor != 0).sum())
    found = {"dense": tensor.nbytes, "bitmap": -(-tensor.numel() // 8) + count * each}
    if tensor.ndim > 1 and tensor.numel() > 0 and count < 2**31:
        starts = 4 * (len(tensor) + 1)
        if tensor.numel() // len(tensor) <= WIDE:
            found["csr16"] = starts + count * (each + 2)
        found["csr32"] = starts + count * (each + 4)
    return found


def smallest(tensor: Tensor) -> str:
    """The form with the fewest bytes; of equals the plainest."""
    found = sizes(tensor)
    return min(found, key=lambda form: (found[form], FORMS.index(form)))


def encode(tensor: Tensor, form: str) -> dict[str, Tensor]:
    """The tensors that hold a tensor in this form.

    >>> {name: part.tolist() for name, part in encode(torch.tensor([[0.0, 2.0], [0.0, 0.0]]), "csr16").items()}
    {'starts': [0, 1, 1], 'columns': [1], 'values': [2.0]}
    """
    if form not in sizes(tensor):
        raise StoreError(
            f"a tensor of shape {tuple(tensor.shape)} has no form {form!r}; it can be {', '.join(sizes(tensor))}"
        )
    tensor = tensor.detach().cpu()
    if form == "dense":
        return {"values": tensor.contiguous()}
    there = tensor != 0
    values = tensor[there]  # in order of rows
    if form == "bitmap":
        bits = np.packbits(there.reshape(-1).numpy())
        return {"bits": torch.from_numpy(bits), "values": values}
    matrix = there.reshape(len(there), -1)
    columns = matrix.nonzero()[:, 1].numpy()
    kind = np.uint16 if form == "csr16" else np.uint32
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), matrix.sum(1).cumsum(0)]).int()
    numbers = columns.astype(kind).view(np.int16 if form == "csr16" else np.int32)
    return {"starts": starts, "columns": torch.from_numpy(numbers), "values": values}


def decode(parts: Mapping[str, Tensor], form: str, shape: tuple[int, ...]) -> Tensor:
    """The tensor again.

    >>> decode(encode(torch.eye(3), "bitmap"), "bitmap", (3, 3)).trace().item()
    3.0
    """
    values = parts["values"]
    if form == "dense":
        return values.reshape(shape)
    out = values.new_zeros(shape)
    if form == "bitmap":
        bits = np.unpackbits(parts["bits"].numpy(), count=out.numel())
        out.reshape(-1)[torch.from_numpy(bits.astype(bool))] = values
        return out
    wide = np.uint16 if form == "csr16" else np.uint32
    columns = torch.from_numpy(parts["columns"].numpy().view(wide).astype(np.int64))
    rows = torch.arange(shape[0]).repeat_interleave(parts["starts"].diff().long())
    out.reshape(shape[0], -1)[rows, columns] = values
    return out


def save_compact(path: str | os.PathLike[str], state: Mapping[str, Tensor]) -> dict[str, str]:
    """Write a state dict, every tensor in its smallest form; gives the forms."""
    forms = {name: smallest(tensor) for name, tensor in state.items()}
    parts = {
        f"{name}:{part}": value
        for name, tensor in state.items()
        for part, value in encode(tensor, forms[name]).items()
    }
    told = [[name, forms[name], list(tensor.shape)] for name, tensor in state.items()]
    write_tensors(Path(path), parts, meta={"compact": told})
    return forms


def load_compact(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The state dict of `save_compact`, dense again, ready for `load_state_dict`."""
    tensors, meta = read_all(Path(path))
    if not isinstance(meta, Mapping) or "compact" not in meta:
        raise StoreError(f"{path} holds no compact tensors; it was not written by save_compact")
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, part = key.rpartition(":")
        parts.setdefault(name, {})[part] = tensor
    return {name: decode(parts[name], form, tuple(shape)) for name, form, shape in meta["compact"]}


__all__ = ["FORMS", "decode", "encode", "load_compact", "save_compact", "sizes", "smallest"]
