"""What is said of groups once all are known: which could lose a whole tensor, their names, the fingerprint."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from sprig.core.types import Group, Slot


def emptied(index: int, size: int, slots: Sequence[Slot]) -> str | None:
    """A tensor that holds only some of the units, and nothing that stays, could lose all its channels."""
    for slot in slots:
        here = slot.axis.group == index
        if here.all() and len(np.unique(slot.axis.unit)) < size:
            return f"{slot.tensor} holds only a part of its channels and could be left without any"
    return None


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
