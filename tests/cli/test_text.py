"""A transformer and lines of text through the commands: inspect, prune, verify; what takes positions says so."""

from pathlib import Path

import pytest
import torch

SMALL = "hf:bert?hidden_size=16&num_hidden_layers=2&num_attention_heads=4&intermediate_size=40&vocab_size=12"
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "sat", "on", "the", "mat", "red")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small encoder, its tokenizer, and a text beside it."""
    transformers = pytest.importorskip("transformers")
    from sprig.models.specs import build

    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    build(SMALL).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    transformers.BertTokenizer(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    draw = torch.Generator().manual_seed(1)
    lines = []
    for _ in range(60):
        count = int(torch.randint(2, 9, (1,), generator=draw))
        picks = torch.randint(5, len(WORDS), (count,), generator=draw).tolist()
        lines.append(" ".join(WORDS[i] for i in picks))
    (folder / "lines.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def cut(encoder: Path, sprig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cut") / "run"
    text = f"text:{encoder / 'lines.txt'}"
    result = sprig(
        "prune", "--model", f"hf:{encoder}", "--data", text, "--fold", "0/2", "--eval-data", text,
        "--eval-fold", "1/2", "--macs", "0.8", "--out", out, "--threads", 1,
    )  # fmt: skip
    assert result.exit_code == 0, result.output + repr(result.exception)
    assert "random weights" not in result.output
    return out


def test_lines_prune_an_encoder_and_verify_holds(cut: Path, answer) -> None:
    found = answer("verify", cut)
    assert found["passed"]
    names = {c["name"] for c in found["certificate"]["claims"]}
    assert {"layer-errors-calibration", "layer-errors-held-out", "budget-macs"} <= names


def test_inspect_traces_with_the_lines(encoder: Path, answer) -> None:
    found = answer("inspect", "--model", f"hf:{encoder}", "--data", f"text:{encoder / 'lines.txt'}")
    assert any("intermediate" in str(group) for group in found["groups"])


def test_export_takes_positions(cut: Path, refused) -> None:
    assert "inputs by name (input_ids, attention_mask)" in refused("export", cut)


def test_random_weights_are_said(encoder: Path, sprig, tmp_path: Path) -> None:
    text = f"text:{encoder / 'lines.txt'}"
    missing = sprig(
        "prune", "--model", SMALL, "--data", text, "--macs", "0.8", "--out", tmp_path / "a"
    )
    assert missing.exit_code == 2 and "needs a tokenizer" in missing.stderr
    result = sprig(
        "prune", "--model", SMALL, "--data", f"{text}?tokenizer={encoder}", "--macs", "0.8",
        "--out", tmp_path / "b", "--method", "magnitude", "--threads", 1,
    )  # fmt: skip
    assert result.exit_code == 0, result.output + repr(result.exception)
    assert "random weights" in result.output + result.stderr


def test_a_cut_with_one_width_for_all_layers_becomes_a_folder_of_transformers(
    encoder: Path, sprig, answer, tmp_path: Path
) -> None:
    text = f"text:{encoder / 'lines.txt'}"
    made = sprig(
        "prune", "--model", f"hf:{encoder}", "--data", text, "--macs", "0.8", "--alike", "--exclude",
        "*attention*", "--out", tmp_path / "run", "--threads", 1,
    )  # fmt: skip
    assert made.exit_code == 0, made.output + repr(made.exception)
    found = answer("export", tmp_path / "run", "--format", "transformers")
    folder = Path(found["folder"])
    assert {"config.json", "model.safetensors"} <= {p.name for p in folder.iterdir()}
    import transformers

    config = transformers.AutoModel.from_pretrained(folder).config
    assert config.intermediate_size < 40 and config.num_attention_heads == 4


def test_several_widths_and_models_of_others_are_refused_as_transformers(
    encoder: Path, cut: Path, sprig, refused, tmp_path: Path
) -> None:
    missing = refused("export", tmp_path, "--format", "keras")
    assert "known are onnx, pt2, transformers" in missing
    text = f"text:{encoder / 'lines.txt'}"
    made = sprig(
        "prune", "--model", f"hf:{encoder}", "--data", text, "--macs", "0.8", "--exclude",
        "*0.intermediate*,*attention*", "--out", tmp_path / "run", "--threads", 1,
    )  # fmt: skip
    assert made.exit_code == 0, made.output + repr(made.exception)
    told = refused("export", tmp_path / "run", "--format", "transformers")
    assert "no configuration has the widths" in told
