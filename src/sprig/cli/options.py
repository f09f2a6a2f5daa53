"""Frozen dataclass ⇄ flags ⇄ JSON: the options of a verb are records, the flags come out of them.

The help of a flag is the field's `help` metadata or, in a config class of another room, the comment
that stands beside the field or its entry ("name: what it is.") in the class's docstring; default and type
are the field's own. So they exist in one place.
"""

import functools
import inspect
import json
import re
import types
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import typer

from sprig.core.errors import InputError, StoreError

T = TypeVar("T")
Modules = Annotated[
    list[str] | None,
    typer.Option(
        "--modules",
        help="A submodule to trace alone, where the whole cannot be exported; may be repeated; auto: all.",
        metavar="NAME",
    ),
]


def option(default: Any = MISSING, help: str = "", *, metavar: str | None = None) -> Any:
    """A field of an options record."""
    return field(default=default, metadata={"help": help, "metavar": metavar})


@dataclass(frozen=True)
class ModelOptions:
    """Which network, with which weights, on which images."""

    model: str = option(
        help="torchvision:NAME, timm:NAME, hf:TYPE or hf:FOLDER, sprig:NAME, module:function, or a run folder.",
        metavar="SPEC",
    )
    weights: str | None = option(
        None,
        "Weights: a .safetensors file, a state dict of torch.save, or package:NAME.",
        metavar="PATH",
    )
    num_classes: int | None = option(None, "Classes, where the model does not say.")
    model_args: str | None = option(
        None, "Options of the model's constructor: width=8,in_channels=1", metavar="KEY=VALUE,..."
    )
    image_size: int | None = option(None, "Height and width, where the model does not say.")
    mean: str | None = option(None, "Mean per channel: 0.485,0.456,0.406", metavar="X,...")
    std: str | None = option(None, "Standard deviation per channel.", metavar="X,...")


@dataclass(frozen=True)
class DataOptions:
    """Which inputs."""

    data: str = option(
        help="digits, fashion-mnist[:ROOT], imagefolder:ROOT, text:FILE or module:function.",
        metavar="SPEC",
    )
    batch_size: int = option(64, "Inputs per batch.")
    images: int | None = option(None, "Use at most this many images.", metavar="N")
    views: int = option(1, "Views of each image: itself, then random crops and flips.", metavar="N")
    fold: str | None = option(None, "Use part i of n of the images, as in 0/2.", metavar="I/N")


@dataclass(frozen=True)
class EvalOptions:
    """Where quality is measured."""

    eval_data: str | None = option(
        None, "Data to measure quality on; the data's own test part if it has one.", metavar="SPEC"
    )
    eval_fold: str | None = option(None, "Part i of n of those images.", metavar="I/N")


@dataclass(frozen=True)
class CommonOptions:
    """What every verb takes."""

    seed: int = option(0, "Seed of everything random.")
    threads: int | None = option(None, "CPU threads; all that there are when not given.")
    json: bool = option(False, "Print one JSON object instead of text.")


@dataclass(frozen=True)
class JsonOption:
    """For verbs that compute nothing."""

    json: bool = option(False, "Print one JSON object instead of text.")


@dataclass(frozen=True)
class OutOptions:
    """Where a run goes."""

    out: str = option(help="Folder of the run: new or empty.", metavar="DIR")
    resume: bool = option(False, "Continue an interrupted run with the same bits.")
    report: bool = option(True, "Write report.html.")


@dataclass(frozen=True)
class BudgetOptions:
    """The most the result may cost: a fraction of the dense cost (0.5), or absolute (300M)."""

    macs: str | None = option(None, "Multiply-adds: 0.5 or 300M.", metavar="SIZE")
    params: str | None = option(None, "Parameters: 0.5 or 2.5M.", metavar="SIZE")
    bytes: str | None = option(None, "Bytes of the weights: 0.5 or 10MB.", metavar="SIZE")
    latency: float | None = option(
        None, "Fraction of the dense latency on this machine: 0.5.", metavar="SHARE"
    )
    latency_ms: float | None = option(None, "Milliseconds per call on this machine.", metavar="MS")


@dataclass(frozen=True)
class TimingOptions:
    """What a budget of latency holds for."""

    batch: int = option(1, "With --latency: samples per call.")
    dtype: str | None = option(
        None,
        "With --latency: float32, bfloat16, float16 or float64; the model's own, if not given.",
        metavar="NAME",
    )
    backend: str = option(
        "eager", "With --latency: eager, torch.compile or onnxruntime.", metavar="NAME"
    )
    rounds: int = option(7, "With --latency: measurements of each thing, at least.")
    seconds: float = option(2.0, "With --latency: time to measure short things more often.")
    refresh: bool = option(False, "With --latency: measure again what the cache knows.")


SIZE = re.compile(r"^\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*([kmgt]?)(i?)(b?)\s*$", re.I)


def size(text: str, *, what: str) -> float:
    """A fraction or an absolute number with an optional suffix.

    >>> size("0.5", what="macs"), size("300M", what="macs"), size("4KiB", what="bytes")
    (0.5, 300000000.0, 4096.0)
    """
    match = SIZE.match(text)
    if match is None:
        raise InputError(
            f"--{what} {text!r} is not a size; give a fraction of the dense cost (0.5) "
            "or a number (300M)"
        )
    number, suffix, binary, _ = match.groups()
    power = " kmgt".index(suffix.lower()) if suffix else 0
    return float(number) * (1024 if binary else 1000) ** power


def pairs(text: str | None, *, what: str) -> dict[str, Any]:
    """`key=value` texts with commas between them.

    >>> pairs("width=8,shortcut=A", what="model-args")
    {'width': 8, 'shortcut': 'A'}
    """
    found: dict[str, Any] = {}
    for part in filter(None, (text or "").split(",")):
        key, equals, value = part.partition("=")
        if not equals or not key.strip():
            raise InputError(f"--{what} {part!r} is not of the form key=value")
        found[key.strip()] = _value(value)
    return found


def numbers(text: str | None, *, what: str) -> tuple[float, ...] | None:
    """Numbers with commas between them.

    >>> numbers("0.5, 0.25", what="mean")
    (0.5, 0.25)
    """
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(
            f"--{what} {text!r} is not a list of numbers; give for example 0.5 or 0.485,0.456,0.406"
        ) from error


def flatten(function: Callable[..., T]) -> Callable[..., T]:
    """`function` with every parameter that is an options record replaced by one flag per field.

    A name that occurs in two records is one flag which feeds both.
    """
    hints = get_type_hints(function, include_extras=True)
    plain: list[inspect.Parameter] = []
    flags: dict[str, inspect.Parameter] = {}
    for parameter in inspect.signature(function).parameters.values():
        hint = hints[parameter.name]
        if not is_dataclass(hint):
            plain.append(parameter.replace(annotation=hint, kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        for entry, help in described(hint):
            flags.setdefault(entry.name, _flag(entry, get_type_hints(hint)[entry.name], help))
    signature = inspect.Signature([*plain, *flags.values()])

    @functools.wraps(function)
    def call(**given: Any) -> T:
        made = {}
        for name in inspect.signature(function).parameters:
            hint = hints[name]
            made[name] = _record(hint, given) if is_dataclass(hint) else given[name]
        return function(**made)

    call.__signature__ = signature  # type: ignore[attr-defined]
    call.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
    return call


def settings(cls: type[T], texts: Sequence[str], *, what: str) -> T:
    """A config record from `key=value` texts; unknown keys and values of a wrong type are refused.

    >>> settings(CommonOptions, ["seed=3"], what="demo").seed
    3
    """
    from sprig.core.records import read

    raw: dict[str, Any] = {}
    for pair in texts:
        key, equals, text = pair.partition("=")
        if not equals:
            raise InputError(f"--set {pair!r} is not of the form key=value")
        raw[key.strip().replace("-", "_")] = _value(text)
    for entry in fields(cls):  # type: ignore[arg-type]  # all settings are dataclasses
        if entry.name in raw and entry.metadata.get("runtime"):
            raise InputError(f"{what}: {entry.name} is no setting, a run fills it in itself")
    try:
        return read(cls, raw, what=what)
    except StoreError as error:
        raise InputError(str(error)) from error


def _value(text: str) -> Any:
    try:
        return json.loads({"True": "true", "False": "false", "None": "null"}.get(text, text))
    except json.JSONDecodeError:
        return text


def _record(cls: Any, given: dict[str, Any]) -> Any:
    """The record of `cls` from flag values; fields that a flag cannot hold are read from text."""
    hints = get_type_hints(cls)
    values = {}
    for entry in fields(cls):
        value = given[entry.name]
        if isinstance(value, str) and _simple(hints[entry.name]) is None:
            text = value if value[:1] in '[{"' or "," not in value else f"[{value}]"
            value = getattr(
                settings(cls, [f"{entry.name}={text}"], what=f"--{entry.name}"), entry.name
            )
        values[entry.name] = value
    return cls(**values)


def _flag(entry: "Field[Any]", hint: Any, help: str) -> inspect.Parameter:
    name = "--" + entry.name.replace("_", "-")
    kind = _simple(hint)
    metavar = entry.metadata.get("metavar")
    default = entry.default if entry.default_factory is MISSING else entry.default_factory()
    if kind is None:
        kind = str | None
        metavar = metavar or ("|".join(map(str, _choices(hint))) or "VALUE")
        default = default if default is None or isinstance(default, str) else json.dumps(default)
    decls = [f"{name}/--no-{name[2:]}"] if kind is bool and default is True else [name]
    shown = default is not None and default is not False
    info = typer.Option(
        ... if default is MISSING else default,
        *decls,
        help=help,
        metavar=metavar,
        show_default=shown,
    )
    return inspect.Parameter(
        entry.name, inspect.Parameter.KEYWORD_ONLY, default=info, annotation=kind
    )


def _simple(hint: Any) -> Any:
    """The type as the option parser knows it; None: take text and read it by the annotation."""
    if hint in (bool, int, float, str):
        return hint
    if get_origin(hint) in (Union, types.UnionType):
        rest = [a for a in get_args(hint) if a is not type(None)]
        if len(rest) == 1 and rest[0] in (bool, int, float, str):
            return rest[0] | None
    return None


def _choices(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) is Literal else ()


def described(cls: Any) -> list[tuple["Field[Any]", str]]:
    """Fields with their help: from the metadata, the comment beside the field, or the docstring."""
    source = "".join(map(_source, cls.__mro__))  # a subclass that changes a default keeps the help
    text = cls.__doc__ or ""
    own = not text.startswith(f"{cls.__name__}(")  # else written by `dataclass`: names and types
    told = entries(text if own else "", [entry.name for entry in fields(cls)])
    found = []
    for entry in fields(cls):
        beside = re.search(rf"^\s+{entry.name}\s*:[^#\n]*#\s*(.+)$", source, re.MULTILINE)
        help = entry.metadata.get("help") or (beside.group(1) if beside else told.get(entry.name))
        found.append((entry, help or ""))
    return found


def entries(text: str, names: Sequence[str]) -> dict[str, str]:
    """What a docstring says of each name, in entries such as "name: this. other, third: that."

    >>> entries("Knobs. a: the first;\\n  more. b, c: two.", ["a", "b", "c"])
    {'a': 'the first; more.', 'b': 'two.', 'c': 'two.'}
    """
    one = "`?(?:" + "|".join(map(re.escape, names)) + ")`?"
    heads = list(re.finditer(rf"(?<![\w`]){one}(?:, {one})*:\s", text)) if names else []
    ends = [head.start() for head in heads[1:]] + [len(text)]
    found: dict[str, str] = {}
    for head, end in zip(heads, ends):  # without heads there is one end too many
        said = " ".join(text[head.end() : end].split()).rstrip(";")
        found |= {name.strip("` "): said for name in head[0].rstrip()[:-1].split(",")}
    return found


def _source(cls: type) -> str:
    try:
        return inspect.getsource(cls)
    except (OSError, TypeError):  # no source at hand, or a class written in C
        return ""
