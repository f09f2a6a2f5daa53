"""Lines of a text as batches of tokens, padded to one length, with the mask that says what is padding."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
import torch
from torch import Tensor

from sprig.core.errors import InputError
from sprig.core.lookup import file_of, shipped

LENGTH = 128  # tokens a line is cut to unless told otherwise
OPTIONS = ("length", "tokenizer")


@dataclass(eq=False)
class Lines:
    """Tokenised lines; every batch is padded to the longest line of all, so that batches fit together."""

    tokens: Sequence[Sequence[int]]
    pad: int
    description: str
    labelled: bool = False

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def length(self) -> int:
        """Tokens of the longest line."""
        return max(len(line) for line in self.tokens)

    def read(self, items: Sequence[tuple[int, int]], *, seed: int) -> dict[str, Tensor]:
        """`input_ids` and `attention_mask`, both (lines, length); a line has one view only."""
        ids = np.full((len(items), self.length), self.pad, dtype=np.int64)
        mask = np.zeros_like(ids)
        for row, (index, _view) in enumerate(items):
            line = self.tokens[index]
            ids[row, : len(line)], mask[row, : len(line)] = line, 1
        return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}

    def targets(self, indices: Sequence[int]) -> Tensor:
        raise InputError(f"{self.description} has no labels")


def text_of(spec: str, *, tokenizer: str | Path | None = None) -> Lines:
    """The lines of `FILE[?length=N&tokenizer=FOLDER]`; empty ones are passed over.

    FILE is a path, or `package:NAME/path/inside`. The tokenizer is a folder with its files, or
    `package:NAME`; the one in the spec goes before `tokenizer`, which is the model's own.
    """
    where, _, query = spec.partition("?")
    given = dict(parse_qsl(query, keep_blank_values=True))
    unknown = sorted(set(given) - set(OPTIONS))
    if unknown:
        raise InputError(f"text:{spec}: unknown option {unknown[0]!r}, known: {', '.join(OPTIONS)}")
    length = given.get("length", str(LENGTH))
    if not length.isdigit() or int(length) < 2:
        raise InputError(
            f"text:{spec}: length is {length!r}, expected a number of tokens from 2 up"
        )
    folder = given.get("tokenizer") or tokenizer
    if folder is None:
        raise InputError(
            f"text:{where} needs a tokenizer: prune a model of hf:FOLDER or hf:package:NAME that brings its own, "
            "or add ?tokenizer=FOLDER"
        )
    path = file_of(where)
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not text in UTF-8: {error}") from error
    lines = [line for line in lines if line]
    if not lines:
        raise InputError(f"{path} holds no text")
    return tokenised(lines, folder, length=int(length), description=f"text:{where}")


def tokenised(
    lines: Sequence[str], tokenizer: str | Path, *, length: int = LENGTH, description: str = "text"
) -> Lines:
    """Lines as tokens of a folder's tokenizer, each cut to `length`; nothing is downloaded."""
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise InputError("transformers is not installed: pip install torch-sprig[hf]") from error
    folder = tokenizer_folder(tokenizer)
    try:
        made: Any = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError) as error:
        text = str(error).strip().split("\n")[0]
        raise InputError(f"{folder} holds no tokenizer that can be read: {text[:200]}") from error
    tokens = made(list(lines), truncation=True, max_length=length)["input_ids"]
    if not all(tokens):
        raise InputError(f"{description}: a line gives no token with the tokenizer of {folder}")
    pad = next((t for t in (made.pad_token_id, made.eos_token_id) if t is not None), 0)
    return Lines(tokens, int(pad), f"{description} in at most {length} tokens a line")


def tokenizer_folder(where: str | Path) -> Path:
    """The folder with a tokenizer's files: a path, or `package:NAME` for the one that a package ships."""
    text = str(where)
    if text.startswith("package:"):
        package = text.removeprefix("package:")
        found = {f.parent for f in shipped(package) if f.name == "tokenizer_config.json"}
        if len(found) != 1:
            raise InputError(f"package {package} ships {len(found)} tokenizers; give a folder")
        return found.pop()
    path = Path(text).expanduser()
    if not path.is_dir():
        raise InputError(f"there is no folder {path} with a tokenizer")
    return path
