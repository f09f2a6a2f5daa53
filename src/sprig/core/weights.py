"""Tensors on disk: safetensors only, never a pickle; hashes that depend on content alone.

safetensors holds no shared storage, so a tied tensor is written once, under its first name, and the
other names stand as aliases in the file's metadata.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sprig.core.errors import StoreError

# One metadata key: the format keeps metadata in a hash map, so several would have no stable order.
META = "sprig"
HEADER_LIMIT = 100_000_000  # bytes, the limit of the safetensors format


def sha256_file(path: Path) -> str:
    """sha256 of the bytes of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_tensors(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over name, dtype, shape and bytes of each tensor, in the order of the names.

    Strides, device and the order of the mapping do not matter.

    >>> a = torch.arange(6.0).reshape(2, 3)
    >>> sha256_tensors({"a": a}) == sha256_tensors({"a": a.t().contiguous().t()})
    True
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        head = f"{len(name.encode())}:{name}|{tensor.dtype}|{tuple(tensor.shape)}|"
        digest.update(head.encode())
        if tensor.numel():
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def sha256_model(model: nn.Module) -> str:
    """sha256 of the state of a module: parameters and persistent buffers."""
    return sha256_tensors(state_of(model))


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """The state dict of a module; refuses entries that are not tensors."""
    state = model.state_dict(keep_vars=True)
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise StoreError(
                f"{name}: the state holds a {type(value).__name__}; "
                "only tensors can be stored safely; make it a buffer"
            )
    return {name: value.detach() for name, value in state.items()}


def write_tensors(path: Path, tensors: Mapping[str, Tensor], *, meta: Any = None) -> None:
    """Write tensors (and any JSON `meta`) atomically; tied tensors once, the rest as aliases."""
    unique, aliases = _untie(tensors)
    text = json.dumps({"aliases": aliases, "meta": meta}, sort_keys=True)
    flat = {n: t.detach().cpu().contiguous().clone() for n, t in unique.items()}
    temp = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        temp.touch()
        mode = temp.stat().st_mode  # what the user's umask allows; the writer would make it private
        save_file(flat, temp, metadata={META: text})
        temp.chmod(mode)
        replace(temp, path)
    except OSError as error:
        temp.unlink(missing_ok=True)
        raise StoreError(
            f"cannot write {path}: {error.strerror or error}; choose another folder"
        ) from error
    except SafetensorError as error:
        temp.unlink(missing_ok=True)
        raise StoreError(
            f"cannot write {path}: {error}; check free space and the folder"
        ) from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, aliases under every one of their names."""
    return _read(path)[0]


def read_meta(path: Path) -> Any:
    """The JSON `meta` that `write_tensors` put beside the tensors; None for a foreign file."""
    return _read(path, tensors=False)[1]


def read_all(path: Path) -> tuple[dict[str, Tensor], Any]:
    """Tensors and meta together."""
    return _read(path)


def check_fit(
    state: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, what: str, finite: bool = True
) -> None:
    """Refuse weights that do not fit, naming the first: missing, unexpected, misshaped or NaN."""
    for name, want in expected.items():
        if name not in state:
            raise StoreError(
                f"{what}: {name} is missing ({len(state)} tensors found, {len(expected)} "
                "expected); give the weights of this very model"
            )
        if state[name].shape != want.shape:
            raise StoreError(
                f"{what}: {name} has shape {list(state[name].shape)}, the model expects "
                f"{list(want.shape)}; give the weights of this very model"
            )
    for name in state:
        if name not in expected:
            raise StoreError(
                f"{what}: unexpected tensor {name}, the model has none of that name; "
                "give the weights of this very model"
            )
    if finite:
        check_finite(state, what=what)


def check_finite(state: Mapping[str, Tensor], *, what: str) -> None:
    """Refuse NaN and infinity, naming the first tensor that holds one."""
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            count = int((~torch.isfinite(tensor)).sum())
            raise StoreError(
                f"{what}: {name} holds {count} values that are NaN or infinite; "
                "expected finite weights, train or load them again"
            )


def load_into(model: nn.Module, path: Path) -> nn.Module:
    """Fill `model` in place with the weights of a safetensors file, if every one of them fits."""
    state = read_tensors(path)
    check_fit(state, state_of(model), what=str(path))
    model.load_state_dict(state, strict=True)
    return model


def replace(temp: Path, path: Path) -> None:
    """Make `temp` durable, then let it take the place of `path` in one step."""
    with open(temp, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(temp, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` durable where the system allows to open a folder."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _untie(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Unique tensors under their first name, and alias → first name for the others."""
    first: dict[tuple[Any, ...], str] = {}
    unique: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    for name, tensor in tensors.items():
        key = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and key in first:
            aliases[name] = first[key]
        else:
            first[key] = name
            unique[name] = tensor
    return unique, aliases


def _read(path: Path, *, tensors: bool = True) -> tuple[dict[str, Tensor], Any]:
    refuse_pickle(path)
    head = _head(path)
    if not _like_safetensors(head):
        raise StoreError(
            f"{path} is not a safetensors file: its first bytes are {head!r}; "
            "it is truncated, damaged or of another kind"
        )
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            names: Iterable[str] = file.keys()
            found = {name: file.get_tensor(name) for name in names} if tensors else {}
            note = json.loads((file.metadata() or {}).get(META, "{}"))
        for alias, name in note.get("aliases", {}).items() if tensors else ():
            found[alias] = found[name]
    except (SafetensorError, OSError, ValueError, KeyError, AttributeError) as error:
        raise StoreError(
            f"{path} is not a readable safetensors file ({error}): it is truncated or damaged; "
            "restore it or make it again"
        ) from error
    return found, note.get("meta")


def refuse_pickle(path: Path) -> None:
    """Say what was offered in place of safetensors, by its first bytes, never by its name."""
    head = _head(path)
    if head[:2] == b"PK" or head[:1] == b"\x80":
        if not _like_safetensors(head):
            raise StoreError(
                f"{path} is a pickle (a torch.save file), which can run code when opened; "
                "expected safetensors: convert it with safetensors.torch.save_file"
            )


def _head(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(9)
    except FileNotFoundError as error:
        raise StoreError(f"{path} does not exist; expected a safetensors file there") from error
    except OSError as error:
        raise StoreError(
            f"cannot read {path}: {error.strerror}; expected a safetensors file"
        ) from error


def _like_safetensors(head: bytes) -> bool:
    """Eight bytes of length, then JSON. A short header may well begin with the first byte of a pickle."""
    length = int.from_bytes(head[:8], "little")
    return len(head) == 9 and head[8:9] == b"{" and length <= HEADER_LIMIT
