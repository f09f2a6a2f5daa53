"""Cut a trained model to a budget, without retraining, into a run folder.

Several processes share the work under torchrun --nproc-per-node N -m sprig prune ...; the plan is that of one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sprig.cli.console import Screen
from sprig.cli.norms import NormsOption, known_norms
from sprig.cli.options import (
    BudgetOptions,
    CommonOptions,
    DataOptions,
    EvalOptions,
    ModelOptions,
    Modules,
    OutOptions,
    TimingOptions,
    settings,
    size,
)
from sprig.core.errors import InputError

if TYPE_CHECKING:
    from sprig.core.folder import RunFolder
    from sprig.core.timing import Timing
    from sprig.core.types import Budget

BARE = ("torchvision", "timm", "sprig")  # model specs that give random weights where none are named


def run(
    model: ModelOptions,
    data: DataOptions,
    budget: BudgetOptions,
    timing: TimingOptions,
    evaluation: EvalOptions,
    out: OutOptions,
    common: CommonOptions,
    *,
    method: Annotated[
        str, typer.Option("--method", help="One of `sprig methods`.", metavar="NAME")
    ] = "refit",
    assign: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="A setting of the method; may be repeated.", metavar="KEY=VALUE"
        ),
    ] = None,
    modules: Modules = None,
    round_to: Annotated[int, typer.Option("--round-to", help="Widths are multiples of this.")] = 1,
    alike: Annotated[
        bool, typer.Option("--alike", help="All layers of a stack keep the same widths.")
    ] = False,
    exclude: Annotated[
        str | None,
        typer.Option(
            "--exclude", help="Groups that stay whole: names or patterns.", metavar="NAMES"
        ),
    ] = None,
    norms: NormsOption = "keep",
) -> None:
    """Search, cut, certify and save."""
    from sprig.cli.session import (
        config_of,
        example_of,
        load_data,
        load_held_out,
        load_model,
        prepare,
        undoing,
    )
    from sprig.cli.torchrun import together
    from sprig.cli.train import finished
    from sprig.core.store import RunFolder
    from sprig.workflow import prune

    limits = budget_of(budget)
    clock = timing_of(budget, timing, common)
    config = method_config(method, assign or [])
    excluded = tuple(filter(None, (exclude or "").split(",")))
    with together() as ranks:
        screen = Screen(json=common.json, mute=not ranks.first)
        folder: RunFolder | None = None

        def opened() -> bool:
            nonlocal folder
            folder = RunFolder.create(out.out, resume=out.resume)
            return folder.finished

        if ranks.lead(opened):
            if folder is not None:
                finished(screen, folder)
            return
        with undoing(folder), screen.bars() as bars:
            prepare(common)
            command = config_of(
                "prune",
                model,
                data,
                evaluation,
                common,
                budget=asdict(limits),
                method=method,
                settings=asdict(config),
                round_to=round_to,
                alike=alike,
                exclude=excluded,
                norms=norms,
                **({} if not modules else {"modules": modules}),
                **({} if clock is None else {"timing": asdict(timing)}),
            )
            ranks.lead(lambda: remember(folder, command))
            loaded = load_model(model, data=data.data)
            hold = None if ranks.first else False  # the others keep what is theirs, and read once
            batches = load_data(data, loaded, split="calibration", seed=common.seed, hold=hold)
            held_out = load_held_out(data, evaluation, loaded, seed=common.seed)
            result = prune(
                loaded.model,
                example_of(batches),
                batches,
                limits,
                method=method,
                config=config,
                eval_data=held_out,
                folder=folder,
                resume=out.resume,
                seed=common.seed,
                modules=modules or None,
                round_to=round_to,
                alike=alike,
                exclude=excluded,
                norms=known_norms(norms),
                timing=clock,
                progress=bars,
                processes=not ranks.alone,
            )
        if folder is not None:
            conclude(screen, folder, command, loaded.built, report=out.report)
        if model.weights is None and bare(model.model):
            screen.note(
                f"note: {model.model} was cut with random weights, for no --weights were given; "
                "what it says of quality says nothing of a trained network"
            )
    if not result.certificate.passed:
        raise typer.Exit(1)  # the run is kept, and its table says which claim fails


def bare(spec: str) -> bool:
    """Whether a model spec gives random weights where none are named."""
    from sprig.models.huggingface import folder_of

    head, _, name = spec.partition(":")
    return head in BARE or (head == "hf" and folder_of(name) is None)


def remember(folder: "RunFolder | None", command: dict[str, Any]) -> None:
    """Keep the command with the run; a resumed run must be asked for in the same way."""
    if folder is None:
        return
    from sprig.core.errors import StoreError
    from sprig.core.records import plain

    begun = folder.once("command", lambda: plain(command))
    for key, value in plain(command).items():
        if begun.get(key) != value:
            raise StoreError(
                f"{folder.path} was begun with {key} = {begun.get(key)!r}, now it is {value!r}; "
                "resume with the options it was begun with, or use a new folder"
            )


def conclude(
    screen: Screen,
    folder: "RunFolder",
    command: dict[str, Any],
    built: Mapping[str, Any],
    *,
    report: bool,
    log: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Add to what `prune` wrote how it was asked for, and say it."""
    from sprig.cli.session import described
    from sprig.cli.train import show
    from sprig.core.store import REPORT, load_record, save_run
    from sprig.report import render_html

    written = load_record(folder)
    name = command["model"]["model"]
    title = Path(name).name if Path(name).is_dir() else name
    config = {**written.config, **described(command, built)}
    record = replace(written, title=title, config=config, log=tuple(log))
    save_run(folder, record)
    if report:
        folder.put_text(REPORT, render_html(record))
    else:
        (folder / REPORT).unlink(missing_ok=True)
    folder.finish()
    show(screen, folder, record)


def budget_of(options: BudgetOptions) -> "Budget":
    """The budget that the flags name; at least one, each more than nothing."""
    from sprig.core.types import Budget

    given = {name: value for name, value in asdict(options).items() if value is not None}
    limits = {
        name: size(value, what=name) if isinstance(value, str) else value
        for name, value in given.items()
    }
    if not limits:
        raise InputError(
            "no budget given; name one, for example --macs 0.5, --params 2.5M or --latency 0.5"
        )
    for name, value in limits.items():
        if name.startswith("latency"):
            limit = 1.0 if name == "latency" else float("inf")
            if not 0 < value <= limit:
                raise InputError(
                    f"--{name.replace('_', '-')} is {value:g}; expected "
                    + (
                        "a fraction of the dense latency in (0, 1]"
                        if limit == 1
                        else "milliseconds above 0"
                    )
                )
        elif not value > 0:
            raise InputError(
                f"--{name} is {value:g}; expected a fraction of the dense cost in (0, 1], "
                "or a number of them above 1"
            )
    return Budget(**limits)


def timing_of(
    budget: BudgetOptions, options: TimingOptions, common: CommonOptions
) -> "Timing | None":
    """How latency is measured; None where the budget does not speak of it, and then no flag may either."""
    from sprig.core.timing import Timing

    if budget.latency is None and budget.latency_ms is None:
        changed = [f"--{k}" for k, v in asdict(options).items() if v != getattr(TimingOptions(), k)]
        if changed:
            raise InputError(
                f"{', '.join(changed)} without a budget of latency; add --latency 0.5 or --latency-ms 8"
            )
        return None
    return Timing(threads=common.threads, **asdict(options))


def method_config(name: str, texts: list[str]) -> Any:
    """The settings of a method, from its own config class."""
    from sprig.methods import METHODS

    if name not in METHODS:
        raise InputError(f"unknown method {name!r}; known are {', '.join(METHODS)}")
    return settings(METHODS[name].config, texts, what=f"method {name}")
