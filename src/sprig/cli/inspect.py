"""What can be pruned in a model, what cannot and why, and what each group costs."""

from collections.abc import Mapping, Sized
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sprig.cli.console import Screen
from sprig.cli.norms import NormsOption, known_norms
from sprig.cli.options import CommonOptions, ModelOptions, Modules

if TYPE_CHECKING:
    from rich.table import Table

    from sprig.core.example import Example
    from sprig.core.types import Graph

SHOWN = 3  # names listed with a reason
NAME = 36  # characters of a group's name in the table: with the figures it fits into 80


def run(
    model: ModelOptions,
    common: CommonOptions,
    *,
    shape: Annotated[
        str | None,
        typer.Option(
            "--input", help="Shape of one input without the batch: 3,224,224", metavar="C,H,W"
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", help="Take the input from this data.", metavar="SPEC")
    ] = None,
    norms: NormsOption = "keep",
    modules: Modules = None,
) -> None:
    """Trace a model and print its groups."""
    from sprig.cli.session import is_run, load_model, prepare, reopen
    from sprig.core.cost import cost, shares
    from sprig.core.tracing import trace

    screen = Screen(json=common.json)
    prepare(common)
    loaded = load_model(model, data=data)
    if is_run(model.model) and shape is None and data is None:
        data = reopen(model.model).data.data
    example = _example(loaded, shape, data, common.seed)
    with screen.bars() as bars:
        bars("trace", 0, None)
        graph = trace(loaded.model, example, norms=known_norms(norms), modules=modules)
    total, share = cost(graph), shares(graph)
    screen.say(
        f"{model.model}: {total['macs'] / 1e6:,.1f} M multiply-adds, {total['params'] / 1e6:,.2f} M "
        f"parameters, {total['bytes'] / 1e6:,.1f} MB"
    )
    screen.say(
        f"{len(graph.prunable)} of {len(graph.groups)} groups can be pruned "
        f"({sum(g.size for g in graph.prunable)} units)\n"
    )
    if graph.parts:
        screen.say(f"Only submodules were traced: {', '.join(part.name for part in graph.parts)}.")
        screen.say(
            f"The multiply-adds are those of one run on the example, {_outside(graph) / 1e6:,.2f} M of them outside of "
            "these.\n"
        )
    screen.say(group_table(graph, share))
    fixed = reasons(graph)
    if fixed:
        screen.say("\nWhat cannot be pruned, and why:")
        for reason, groups in fixed.items():
            screen.say(f"  {reason}: {', '.join(list(groups)[:SHOWN])}{_more(groups)}")
            detail = next(iter(groups.values()))
            if detail:
                screen.say(f"    ({'first: ' if len(groups) > 1 else ''}{detail}")
    stops = [stop for stop in graph.frozen if stop.reason not in fixed]
    if stops:
        screen.say("\nWhere channels were lost sight of:")
        for stop in stops:
            screen.say(
                f"  {stop.op} in {stop.module or 'the model'}: {stop.reason} ({stop.source})"
            )
    screen.give(
        {
            "model": model.model,
            "cost": total,
            "fingerprint": graph.fingerprint,
            "groups": [
                {
                    "name": g.name,
                    "units": g.size,
                    "channels": g.channels,
                    "macs_share": share[g.index],
                    "producers": g.producers,
                    "followers": g.followers,
                    "consumers": [graph.consumers[i].weight for i in g.consumers],
                    "reason": g.reason,
                }
                for g in graph.groups
            ],
            "frozen": graph.frozen,
            "modules": [part.name for part in graph.parts],
        }
    )


def group_table(graph: "Graph", share: Mapping[int, float]) -> "Table":
    """One row per group, in data-flow order."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("group", no_wrap=True)
    for head in ("units", "channels", "readers", "of MACs"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for group in graph.groups:
        table.add_row(
            short(group.name, NAME),
            str(group.size),
            str(group.channels),
            str(len(group.consumers)),
            f"{100 * share[group.index]:.1f}%",
            "" if group.prunable else "fixed",
            style=None if group.prunable else "dim",
        )
    return table


def reasons(graph: "Graph") -> dict[str, dict[str, str]]:
    """By reason: the groups that may not be touched, each with the operation that is to blame."""
    found: dict[str, dict[str, str]] = {}
    for group in graph.groups:
        if group.reason is not None:
            reason, _, detail = group.reason.partition(" (")
            found.setdefault(reason, {})[group.name] = detail
    return found


def short(name: str, most: int) -> str:
    """The name, its middle left out where it is too long; all of it is in the JSON.

    >>> short("encoder.layers.0.self_attention", 21)
    'encod….self_attention'
    """
    return name if len(name) <= most else f"{name[: most // 4]}…{name[most // 4 - most + 1 :]}"


def _outside(graph: "Graph") -> float:
    """Multiply-adds that the rest does around the parts."""
    from sprig.core.join import OUTSIDE

    return sum(t.coefficient for t in graph.terms if t.where == OUTSIDE)


def _more(names: Sized) -> str:
    return f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""


def _example(loaded: Any, shape: str | None, data: str | None, seed: int) -> "Example":
    import torch

    from sprig.cli.options import DataOptions
    from sprig.cli.session import EXAMPLES, example_of, load_data
    from sprig.core.errors import InputError

    if data is not None:
        options = DataOptions(data=data, batch_size=EXAMPLES, images=EXAMPLES)
        return example_of(load_data(options, loaded, split="calibration", seed=seed))
    image = loaded.image
    if shape is not None:
        try:
            sizes = tuple(int(part) for part in shape.split(","))
        except ValueError:
            sizes = ()
        if not sizes or min(sizes) < 1:
            raise InputError(f"--input {shape!r} is not a shape; give for example 3,224,224")
    elif image.size is not None:
        sizes = (image.channels or 3, *image.size)
    else:
        raise InputError(
            "the model does not say how large its inputs are; give --input C,H,W, --image-size or --data"
        )
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(EXAMPLES, *sizes, generator=generator),)
