"""What is said of groups once all are known: which could lose a whole tensor, their names, the fingerprint."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

import numpy as np

from sprig.core.errors import InputError
from sprig.core.types import Axis, Graph, Group, Slot

KEEPS = "holds only a part of these channels and keeps one, or it could be left without any"


def emptied(axis: Axis, members: Sequence[Sequence[int]]) -> bool:
    """Whether what holds only some units of a group, and nothing that stays, could lose all its channels."""
    index = int(axis.group[0])
    alone = index >= 0 and bool((axis.group == index).all())
    return alone and len(np.unique(axis.unit)) < len(members[index])


def unique_names(groups: Sequence[Group]) -> tuple[Group, ...]:
    """The groups, with a number behind a name that another group had before."""
    seen: dict[str, int] = defaultdict(int)
    out = []
    for group in groups:
        seen[group.name] += 1
        count = seen[group.name]
        fields = dict(group.__dict__)
        if count > 1:
            fields["name"] = f"{group.name}#{count}"
        out.append(Group(**fields))
    return tuple(out)


def left_whole(graph: Graph, patterns: Sequence[str]) -> Graph:
    """The graph with the groups that a pattern names held back.

    Raises:
        InputError: a pattern that fits no group.
    """
    named = {g.name: g for g in graph.groups}
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in named):
            raise InputError(
                f"exclude={pattern!r} fits no group; the names are like {', '.join(list(named)[:3])} (sprig inspect "
                "lists them)"
            )
    groups = tuple(
        replace(g, reason=g.reason or "excluded on request")
        if any(fnmatchcase(g.name, p) for p in patterns)
        else g
        for g in graph.groups
    )
    return replace(graph, groups=groups) if patterns else graph


def fingerprint(
    groups: Sequence[Group], slots: Sequence[Slot], shapes: Mapping[str, tuple[int, ...]]
) -> str:
    """Same model code and configuration, same fingerprint; weights do not enter."""
    digest = hashlib.sha256()
    for name in sorted(shapes):
        digest.update(f"{name}{shapes[name]}".encode())
    for group in groups:
        digest.update(f"{group.name}{group.size}".encode())
    for slot in sorted(slots, key=lambda s: (s.tensor, s.dim)):
        digest.update(f"{slot.tensor}{slot.dim}".encode())
        digest.update(slot.axis.group.tobytes() + slot.axis.unit.tobytes())
    return digest.hexdigest()
