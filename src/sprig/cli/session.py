"""From options to objects: the model, its images, its data; and from a run folder back to all of them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sprig.cli.options import (
    CommonOptions,
    DataOptions,
    EvalOptions,
    ModelOptions,
    numbers,
    pairs,
)
from sprig.core.errors import DivergenceError, InputError, RanksError, SprigError, StoreError

if TYPE_CHECKING:
    from torch import nn

    from sprig.core.batches import ImageSpec
    from sprig.core.example import Example
    from sprig.core.folder import RunFolder
    from sprig.data import Batches

EXAMPLES = 2  # samples that a model is traced with
GREY = ("digits", "fashion-mnist")
OWN_TEST = ("digits", "fashion-mnist", "torchvision")  # data that comes with a part held out


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model and how it wants its images."""

    model: "nn.Module"
    image: "ImageSpec"
    built: Mapping[str, Any]  # options that the constructor was given
    tokenizer: str | None = None  # folder of its own, for text


def prepare(common: CommonOptions) -> None:
    """Threads and seed, before anything is built."""
    import torch

    if common.threads is not None:
        if common.threads < 1:
            raise InputError(f"--threads is {common.threads}, expected at least 1")
        torch.set_num_threads(common.threads)
    torch.manual_seed(common.seed)


def absolute(model: ModelOptions) -> ModelOptions:
    """The same options with paths that still hold when the run is read from elsewhere."""
    weights = model.weights
    if weights is not None and Path(weights).exists():
        weights = str(Path(weights).resolve())
    spec = str(Path(model.model).resolve()) if is_run(model.model) else _anchored(model.model)
    return replace(model, model=spec, weights=weights)


def anchored(data: Any) -> Any:
    """The same for data."""
    if isinstance(data, EvalOptions):
        return replace(data, eval_data=data.eval_data and _anchored(data.eval_data))
    return replace(data, data=_anchored(data.data))


def _anchored(spec: str) -> str:
    """A spec whose rest is a path that exists, with that path made absolute."""
    head, colon, rest = spec.partition(":")
    path, question, query = rest.partition("?")
    if colon and path and Path(path).exists():
        return f"{head}:{Path(path).resolve()}{question}{query}"
    where, colon, name = spec.rpartition(":")
    if colon and where.endswith(".py") and Path(where).exists():
        return f"{Path(where).resolve()}:{name}"
    return spec


def is_run(spec: str) -> bool:
    """Whether a model spec is the folder of a run."""
    return (Path(spec) / "config.json").is_file()


def load_model(options: ModelOptions, *, data: str | None = None) -> Loaded:
    """The network that the options name, with its weights, in evaluation mode.

    A reference network takes the number of channels from `data`, when that is a data set of grey images.
    """
    from sprig.core.batches import ImageSpec
    from sprig.models import specs

    if is_run(options.model):
        if options.weights is not None:
            raise InputError(
                f"--weights {options.weights} beside the run folder {options.model}, which has its "
                "own; give one of them"
            )
        return reopen(options.model).result()
    given = ImageSpec(
        size=None if options.image_size is None else (options.image_size, options.image_size),
        mean=numbers(options.mean, what="mean"),
        std=numbers(options.std, what="std"),
    )
    extra = pairs(options.model_args, what="model-args")
    if options.model.startswith("sprig:") and (data or "").partition(":")[0] in GREY:
        extra = {"in_channels": 1, **extra}
    if options.num_classes is not None:
        extra = {"num_classes": options.num_classes, **extra}
    model = specs.build(options.model, weights=options.weights, **extra)
    stated = specs.image_spec(model, options.model, weights=options.weights)
    return Loaded(model.eval(), given.fill(stated), extra, specs.tokenizer_of(options.model))


def load_data(
    options: DataOptions, loaded: Loaded, *, split: str, seed: int, views: int | None = None,
    hold: bool | None = None,
) -> "Batches":  # fmt: skip
    """The batches that the options name, sized and normalised as the model wants them. hold: keep them in memory; None:
    where they are few."""
    from sprig.data import load

    return load(
        options.data,
        split=split,  # type: ignore[arg-type]
        batch_size=options.batch_size,
        image=loaded.image,
        limit=options.images,
        views=options.views if views is None else views,
        seed=seed,
        fold=options.fold,
        hold=hold,
        tokenizer=loaded.tokenizer,
    )


def load_held_out(
    options: DataOptions, evaluation: EvalOptions, loaded: Loaded, *, seed: int
) -> "Batches | None":
    """The inputs to measure quality on: those named, or the data's own test part, or none."""
    own = options.data.partition(":")[0] in OWN_TEST
    if evaluation.eval_data is None and evaluation.eval_fold is None and not own:
        return None
    chosen = DataOptions(
        data=evaluation.eval_data or options.data,
        batch_size=options.batch_size,
        fold=evaluation.eval_fold,
    )
    return load_data(chosen, loaded, split="test", seed=seed)


def example_of(data: "Batches") -> "Example":
    """The inputs of the first two samples, to trace the model with: by name if the data names them."""
    from sprig.core.batches import map_tensors, unpack

    args, kwargs, _ = unpack(next(iter(data)))
    cut: Example = map_tensors(kwargs or args, lambda t: t[:EXAMPLES])
    return cut


def config_of(
    verb: str,
    model: ModelOptions,
    data: DataOptions,
    evaluation: EvalOptions,
    common: CommonOptions,
    **more: Any,
) -> dict[str, Any]:
    """What `config.json` says about the command: enough to build everything again."""
    return {
        "verb": verb,
        "model": asdict(absolute(model)),
        "data": asdict(anchored(data)),
        "eval": asdict(anchored(evaluation)),
        "seed": common.seed,
        "threads": common.threads,
        **more,
    }


def described(command: Mapping[str, Any], built: Mapping[str, Any]) -> dict[str, Any]:
    """The `config.json` of a run: the command in full, and what a reader looks for first."""
    return {
        "model": command["model"]["model"],
        "model_args": dict(built),
        "data": command["data"]["data"],
        "command": dict(command),
    }


@dataclass(frozen=True, eq=False)
class Reopened:
    """A run folder and what its config says."""

    folder: "RunFolder"
    config: Mapping[str, Any]
    model: ModelOptions
    data: DataOptions
    evaluation: EvalOptions

    @property
    def seed(self) -> int:
        return int(self.config.get("seed", 0))

    @property
    def modules(self) -> list[str] | None:
        """The submodules that were traced, where the whole model could not be."""
        from sprig.workflow.recheck import MODULES, SHAPES

        found = self.folder.get_json(SHAPES) if self.folder.has(SHAPES) else {}
        modules: list[str] | None = found.get(MODULES)
        return modules

    @property
    def cut(self) -> bool:
        """Whether the run made a network smaller; else it only trained one."""
        return self.folder.has("plan.json")

    @property
    def from_scratch(self) -> bool:
        """Whether the run trained its network: what it began with is then no measure of anything."""
        return self.config.get("verb") == "train"

    def start(self) -> Loaded:
        """The network that the command began with."""
        import torch

        torch.manual_seed(self.seed)
        return load_model(self.model, data=self.data.data)

    def dense(self) -> Loaded:
        """The network that the result is compared with: the uncut one, or else the result itself."""
        return self.start() if self.cut and not self.from_scratch else self.result()

    def result(self) -> Loaded:
        """The network that the run ended with."""
        if not self.folder.has("model.safetensors"):
            raise StoreError(
                f"{self.folder.path} has no model.safetensors: the run is unfinished; "
                "continue it with --resume"
            )
        start = self.start()
        if self.cut:
            from sprig.workflow import load

            return replace(start, model=load(self.folder.path, model=start.model).eval())
        return replace(start, model=self.folder.load_model(start.model).eval())


def reopen(path: str | Path) -> Reopened:
    """Read how a run was made; refuses folders that the command line did not write."""
    from sprig.core.records import read
    from sprig.core.store import RunFolder

    folder = RunFolder.open(path)
    raw = folder.get_json("config.json")
    config = raw.get("command") if isinstance(raw, Mapping) else None
    if not isinstance(config, Mapping) or "model" not in config or "data" not in config:
        raise StoreError(
            f"{folder.path}/config.json does not say which model and data were used; "
            "it was not written by the command line: use sprig.load(folder, model=...) in Python"
        )
    model = read(ModelOptions, config["model"], what="config.json model")
    beside = folder.path / (model.weights or "")
    if beside.is_file():  # weights that the run keeps in its own folder, wherever that is now
        model = replace(model, weights=str(beside))
    return Reopened(
        folder=folder,
        config=config,
        model=model,
        data=read(DataOptions, config["data"], what="config.json data"),
        evaluation=read(EvalOptions, config.get("eval") or {}, what="config.json eval"),
    )


@contextmanager
def undoing(folder: "RunFolder | None") -> Iterator[None]:
    """Bad input leaves nothing half-written, unless an epoch was finished; training that diverged leaves its finished
    epochs, and a run that lost one of its processes its finished stages."""
    try:
        yield
    except (DivergenceError, RanksError):
        raise
    except SprigError as error:
        if folder is not None and folder.trained:
            raise type(error)(f"{error} (what was trained is kept in {folder.path})") from error
        if folder is not None:
            folder.discard()
        raise
