"""From a workbench, plan or path of a whole model to those of one of its parts, and back."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from torch import nn

from sprig.core.batches import Triple, count
from sprig.core.errors import InputError
from sprig.core.parts import recorded, submodule
from sprig.core.path import Path, with_cost
from sprig.core.plan import Plan
from sprig.core.types import Graph, Group, GroupPath, Part
from sprig.core.workbench import Workbench

T = TypeVar("T")


def part_bench(bench: Workbench, part: Part) -> Workbench:
    """A part on what it gets while the dense model runs on the calibration data; made once."""
    key = f"part {part.name}"
    if key not in bench.scratch:
        made = bench_in(bench, part, bench.model)
        if made is None:
            raise InputError(f"submodule {part.name!r} is never called on this data")
        bench.scratch[key] = made
    found: Workbench = bench.scratch[key]
    return found


def bench_in(bench: Workbench, part: Part, model: nn.Module) -> Workbench | None:
    """The dense part on what it gets while `model` runs on the calibration data; None if no batch reaches it."""
    triples = recorded(part, model, bench.triples)
    if not triples:
        return None
    module = submodule(bench.model, part.name)
    views = bench.views * rows_each(bench.triples, triples)
    return Workbench(
        module, part.graph, triples, bench.seed, bench.progress, inner=True, views=views
    )


def rows_each(whole: Sequence[Triple], part: Sequence[Triple]) -> int:
    """Rows that a part gets of each sample (windows, tokens); 1 where they are not as many of each."""
    if len(whole) != len(part):
        return 1
    rows = {divmod(count(mine), count(given)) for given, mine in zip(whole, part, strict=True)}
    (times, rest), *others = rows
    return times if times and not rest and not others else 1


def pairs(graph: Graph, part: Part) -> list[tuple[Group, Group]]:
    """The groups of a part: as the whole model's graph has them, and as its own has them."""
    return list(zip(graph.groups[part.first :], part.graph.groups, strict=False))


def down(named: Mapping[str, T], graph: Graph, part: Part) -> dict[str, T]:
    """What is known by the names of groups of the whole model, for one part by its own names."""
    return {own.name: named[joint.name] for joint, own in pairs(graph, part) if joint.name in named}


def up(named: Mapping[str, T], graph: Graph, part: Part) -> dict[str, T]:
    """The other way round."""
    return {joint.name: named[own.name] for joint, own in pairs(graph, part) if own.name in named}


def plan_of(plan: Plan, graph: Graph, part: Part) -> Plan:
    """The plan for one part."""
    keep, sizes = down(plan.keep, graph, part), down(plan.sizes, graph, part)
    own = replace(plan, keep=keep, sizes=sizes, graph=part.graph.fingerprint)
    return with_cost(own, part.graph)


def path_of(path: Path, part: Part) -> Path:
    """The path of one part."""
    return replace(
        path,
        graph=part.graph,
        groups=renamed(down(path.groups, path.graph, part)),
        harm=down(path.harm, path.graph, part),
        chosen=down(path.chosen, path.graph, part),
    )


def renamed(groups: Mapping[str, GroupPath]) -> dict[str, GroupPath]:
    """Every group's path under the name that it is found by."""
    return {name: replace(found, group=name) for name, found in groups.items()}


def each_part(bench: Workbench, ask: Callable[[Workbench, Part], T]) -> list[tuple[Part, T]]:
    """What `ask` says of every part in which something can be pruned, in the order in which they run."""
    return [
        (part, ask(part_bench(bench, part), part))
        for part in bench.graph.parts
        if part.graph.prunable
    ]
