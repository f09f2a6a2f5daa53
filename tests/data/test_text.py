"""Lines as tokens: padded to one length, masked, the same each time."""

import sys

import pytest
import torch

from sprig.core.errors import InputError
from sprig.core.lookup import file_of, shipped
from sprig.data import load
from sprig.data.text import Lines, text_of, tokenizer_folder

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "sat", "on", "the", "mat")
TEXT = "a cat sat\n\n  the mat  \na cat sat on the mat on the mat\nsat\n"


@pytest.fixture
def folder(tmp_path):
    """A tokenizer of eleven words, saved as a library would."""
    transformers = pytest.importorskip("transformers")
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    made = transformers.BertTokenizer(vocab=str(tmp_path / "vocab.txt"))
    made.save_pretrained(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text(TEXT)
    return path


def test_lines_become_tokens(folder, file) -> None:
    data = load(f"text:{file}", tokenizer=str(folder), batch_size=3, split="test")
    first, second = list(data)
    assert data.samples == 4 and not data.labelled
    assert list(first) == ["input_ids", "attention_mask"]
    assert first["input_ids"].shape == (3, 11) and second["input_ids"].shape == (1, 11)
    assert first["input_ids"][0].tolist() == [2, 5, 6, 7, 3, *[0] * 6]
    assert first["attention_mask"].sum(1).tolist() == [5, 4, 11]
    assert torch.equal(first["attention_mask"] == 0, first["input_ids"] == 0)
    assert data.digest() == data.digest()


def test_long_lines_are_cut(folder, file) -> None:
    lines = text_of(f"{file}?length=6&tokenizer={folder}")
    assert lines.length == 6 and lines.tokens[2][-1] == 3  # the end stays marked
    assert "at most 6 tokens" in lines.description


def test_folds_share_no_line(folder, file) -> None:
    parts = [
        load(f"text:{file}", tokenizer=str(folder), fold=fold, split="test")
        for fold in ("0/2", "1/2")
    ]
    rows = [{tuple(r.tolist()) for batch in part for r in batch["input_ids"]} for part in parts]
    assert len(rows[0]) == len(rows[1]) == 2 and not rows[0] & rows[1]


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("?length=1", "length is '1'"),
        ("?length=many", "length is 'many'"),
        ("?size=3", "unknown option 'size'"),
    ],
)
def test_bad_options(folder, file, query: str, text: str) -> None:
    with pytest.raises(InputError, match=text):
        text_of(f"{file}{query}", tokenizer=folder)


def test_what_is_missing_is_said(folder, file, tmp_path, monkeypatch) -> None:
    with pytest.raises(InputError, match=r"needs a tokenizer: .*tokenizer=FOLDER"):
        load(f"text:{file}")
    with pytest.raises(InputError, match="there is no file"):
        text_of("no-such.txt", tokenizer=folder)
    with pytest.raises(InputError, match="there is no folder"):
        text_of(str(file), tokenizer=tmp_path / "none")
    with pytest.raises(InputError, match="ships 0 tokenizers"):
        tokenizer_folder("package:numpy")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no tokenizer that can be read"):
        text_of(str(file), tokenizer=tmp_path / "empty")
    blank, binary = tmp_path / "blank.txt", tmp_path / "binary.txt"
    blank.write_text("\n \n")
    binary.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(InputError, match="holds no text"):
        text_of(str(blank), tokenizer=folder)
    with pytest.raises(InputError, match="is not text in UTF-8"):
        text_of(str(binary), tokenizer=folder)
    with pytest.raises(InputError, match="has no labels"):
        Lines([[1]], 0, "text").targets([0])
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"pip install torch-sprig\[hf\]"):
        text_of(str(file), tokenizer=folder)


def test_files_of_packages() -> None:
    license_file = next(f for f in shipped("safetensors") if f.name == "METADATA")
    inside = "/".join(license_file.parts[-2:])
    assert file_of(f"package:safetensors/{inside}") == license_file
    for spec in ("package:safetensors/none.txt", "package:safetensors"):
        with pytest.raises(InputError, match="ships 0 files"):
            file_of(spec)
    with pytest.raises(InputError, match="is not installed"):
        file_of("package:no-such-package-here/x")
