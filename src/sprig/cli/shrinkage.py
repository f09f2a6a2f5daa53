"""Training with a penalty and the cut at its end, for `sprig train --method`."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from sprig.cli.options import option, settings, size
from sprig.core.errors import InputError, TraceError

if TYPE_CHECKING:
    from torch import nn

    from sprig.core.folder import RunFolder

MASKS = "masks.safetensors"
COMPACT = "compact.safetensors"  # the same weights, each tensor in its smallest form


@dataclass(frozen=True)
class ShrinkOptions:
    """What shrinks while it trains, and what is cut at the end."""

    method: str | None = option(
        None,
        "Shrink while training: halo, l1, group-lasso, ...; see `sprig methods`.",
        metavar="NAME",
    )
    keep: float | None = option(
        None, "With --method: share of the weights, or units, that stays.", metavar="SHARE"
    )
    macs: str | None = option(
        None, "With --method: cut until so many multiply-adds: 0.5 or 300M.", metavar="SIZE"
    )
    params: str | None = option(
        None, "With --method: cut until so many parameters.", metavar="SIZE"
    )
    per_layer: bool = option(False, "Keep the same share of every layer.")
    exclude: str | None = option(
        None, "Parameters to leave alone, by name or pattern.", metavar="NAME,..."
    )
    biases: bool = option(False, "Of single weights: shrink biases too.")
    norms: bool = option(False, "Of single weights: shrink scales and shifts of norms too.")
    first: bool = option(True, "Shrink the first layer.")
    last: bool = option(True, "Shrink the last layer.")
    remove_empty: bool = option(
        False, "Take out units that zeros emptied: smaller, the same function."
    )
    begin: float = option(0.0, "Epochs before the penalty acts.")
    ramp: float = option(0.0, "Epochs over which it rises.")


def plan_of(options: ShrinkOptions, assign: Sequence[str]) -> dict[str, Any] | None:
    """The keywords of `train_and_cut`; None for plain training, which takes none of these options."""
    from sprig.core.types import Budget
    from sprig.methods.penalties.asked import refuse_idle
    from sprig.methods.penalties.run import Cut
    from sprig.methods.penalties.scope import Scope
    from sprig.methods.penalties.shelf import PENALTIES

    if options.method is None:
        stray = [k for k, v in asdict(options).items() if v != asdict(ShrinkOptions())[k]]
        stray += ["set"] if assign else []
        if stray:
            names = ", ".join(f"--{name.replace('_', '-')}" for name in stray)
            raise InputError(
                f"{names} without --method: say what is to shrink the network, e.g. --method halo"
            )
        return None
    if options.method not in PENALTIES:
        raise InputError(f"unknown method {options.method!r}; known are {', '.join(PENALTIES)}")
    limits = {
        unit: size(text, what=unit)
        for unit in ("macs", "params")
        if (text := getattr(options, unit)) is not None
    }
    if options.remove_empty and PENALTIES[options.method].groups:
        raise InputError(
            f"--remove-empty is for methods on single weights; {options.method} ends in a smaller network anyway"
        )
    if limits and options.keep is not None:
        raise InputError("--keep beside a budget: give one of --keep, --macs, --params")
    entry = PENALTIES[options.method]
    asked: dict[str, Any] = {
        "scope": Scope(
            biases=options.biases,
            norms=options.norms,
            first=options.first,
            last=options.last,
            exclude=tuple(filter(None, (options.exclude or "").split(","))),
        ),
        "cut": Cut(
            keep=options.keep,
            budget=Budget(**limits) if limits else None,
            per_layer=options.per_layer,
        ),
        "begin": options.begin,
        "ramp": options.ramp,
    }
    refuse_idle(entry, **asked)
    chosen = settings(entry.config, assign, what=options.method)
    return {"method": options.method, "settings": chosen, **asked}


def traced(model: "nn.Module", example: Any, method: str | None) -> tuple[Any, str | None]:
    """The graph, or None and why not: a method on single weights needs none."""
    from sprig.core.tracing import trace
    from sprig.methods.penalties.shelf import PENALTIES

    try:
        return trace(model, example), None
    except TraceError as error:
        if method is not None and PENALTIES[method].groups:
            raise InputError(
                f"{method} acts on groups of channels, and this model gives none ({error}); take a method on single "
                "weights, e.g. halo"
            ) from error
        return None, (
            "this model gives no groups of channels, so it cannot be made smaller, and multiply-adds are counted on "
            f"its convolutions and linear layers alone ({error})"
        )


def measured(model: "nn.Module", graph: Any, data: Any, example: Any) -> Any:
    """Cost and quality; without a graph the cost is counted on the layers themselves."""
    from sprig.cli.quality import measure
    from sprig.core.example import inputs_of
    from sprig.core.types import Measures
    from sprig.methods.penalties.cut import positions
    from sprig.workflow import quality

    if graph is not None:
        return measure(model, None, graph, data)
    args, kwargs = inputs_of(example)
    used = positions(model, args, kwargs)
    parameters = dict(model.named_parameters())
    return Measures(
        macs=round(sum(used[n] * parameters[n].numel() for n in used)),
        params=sum(p.numel() for p in parameters.values()),
        bytes=sum(t.nbytes for t in [*parameters.values(), *model.buffers()]),
        quality=quality(model, None, data) if data is not None else {},
    )


def train_with(
    model: "nn.Module",
    batches: Any,
    chosen: dict[str, Any],
    *,
    folder: "RunFolder",
    example: Any,
    graph: Any,
    calibration: Any,
    held_out: Any,
    config: Any,
    hook: Any,
    title: str,
    told: dict[str, Any],
    remove_empty: bool = False,
) -> tuple[Any, Any, tuple[str, ...]]:
    """Train, cut, write what is beside the weights; gives the model, its record and notes."""
    from sprig.core.compact import save_compact
    from sprig.core.cost import shares
    from sprig.core.store import state_of
    from sprig.core.tracing import trace
    from sprig.core.types import GroupRow, RunRecord
    from sprig.methods.penalties.run import train_and_cut
    from sprig.workflow import quality
    from sprig.workflow.trained import keep_cut, log_of, take_out_empty

    if remove_empty and graph is None:
        raise InputError("--remove-empty needs groups of channels, and this model gives none")
    judged = held_out is not None and "accuracy" in quality(model, None, held_out)
    found = train_and_cut(
        model,
        batches,
        config=config,
        graph=graph,
        example=example,
        evaluation=held_out if judged else None,
        hooks=[hook],
        folder=folder / "state",
        resume=True,
        **chosen,
    )
    seed, masked = told["command"]["seed"], None
    if remove_empty and found.plan is None:
        masked, found = found.model, take_out_empty(found, graph, example, seed=seed)
    before = measured(found.trained, graph, held_out, example)
    after = measured(
        found.model,
        graph if found.plan is None else trace(found.model, example),
        held_out,
        example,
    )
    rows: tuple[GroupRow, ...] = ()
    certificate = None
    if found.plan is not None:
        share = shares(graph)
        everything = {g.name: tuple(range(g.size)) for g in graph.groups}
        rows = tuple(
            GroupRow(
                name=g.name,
                size=g.size,
                kept=found.plan.keep.get(g.name, everything[g.name]),
                reason=g.reason,
                macs_share=share[g.index],
            )
            for g in graph.groups
        )
        certificate = keep_cut(
            folder, found, graph, example, data=calibration, eval_data=held_out,
            budget=chosen["cut"].budget if masked is None else None, masked=masked, seed=seed,
        )  # fmt: skip
    if found.masks:
        folder.put_tensors(MASKS, found.masks)
        save_compact(folder / COMPACT, state_of(found.model))
    record = RunRecord(
        title=title,
        config=told,
        plan=found.plan,
        certificate=certificate,
        before=before,
        after=after,
        groups=rows,
        curve=(),
        log=log_of(found, model, example, data=calibration, eval_data=held_out if judged else None),
    )
    return found.model, record, found.notes


def held_masks(folder: "RunFolder") -> list[Any]:
    """A hook that keeps the zeros of a masked run, if it is one."""
    from sprig.training.masks import HeldZeros

    if not folder.has(MASKS):
        return []
    return [HeldZeros({n: m.bool() for n, m in folder.get_tensors(MASKS).items()})]
