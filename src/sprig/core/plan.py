"""What stays, per group, as data: a frozen record with JSON, a version and a hash of its content."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sprig.core.errors import PlanError
from sprig.core.types import Graph

VERSION = 1


@dataclass(frozen=True)
class Plan:
    """What stays. `keep[name]` are the unit numbers that stay in the group of that name, ascending.

    Groups that are not named stay whole. `graph` is the fingerprint of the graph the plan was made for.
    """

    keep: Mapping[str, tuple[int, ...]]
    sizes: Mapping[str, int]  # units of each named group in the original
    graph: str
    method: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    cost: Mapping[str, int] = field(default_factory=dict)  # predicted: macs, params, bytes

    def payload(self) -> dict[str, Any]:
        """Everything as plain JSON types, without the hash."""
        return {
            "format": "sprig-plan",
            "version": VERSION,
            "graph": self.graph,
            "method": self.method,
            "config": dict(self.config),
            "seed": self.seed,
            "cost": dict(self.cost),
            "groups": {
                name: {"size": int(self.sizes[name]), "keep": [int(i) for i in kept]}
                for name, kept in self.keep.items()
            },
        }

    @property
    def hash(self) -> str:
        """sha256 of the content."""
        return _digest(self.payload())

    def to_json(self) -> str:
        return json.dumps({**self.payload(), "sha256": self.hash}, indent=1, sort_keys=True)

    @staticmethod
    def from_json(text: str) -> "Plan":
        """Read a plan; a truncated, edited or unknown one is refused."""
        try:
            raw = json.loads(text)
        except json.JSONDecodeError as error:
            raise PlanError(
                f"plan is not valid JSON (line {error.lineno}): it is truncated or damaged; "
                "make it again with `sprig prune`"
            ) from error
        if not isinstance(raw, dict) or raw.get("format") != "sprig-plan":
            raise PlanError('not a sprig plan: expected "format": "sprig-plan"')
        if raw.get("version") != VERSION:
            raise PlanError(f"plan version {raw.get('version')!r}, this sprig reads {VERSION}")
        given = raw.pop("sha256", None)
        if given != _digest(raw):
            raise PlanError(
                "plan was edited: its content does not match its sha256; make it again with `sprig prune`"
            )
        try:
            groups = raw["groups"]
            return Plan(
                keep={name: tuple(g["keep"]) for name, g in groups.items()},
                sizes={name: int(g["size"]) for name, g in groups.items()},
                graph=raw["graph"],
                method=raw["method"],
                config=raw["config"],
                seed=raw["seed"],
                cost=raw["cost"],
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise PlanError(f"plan lacks or garbles the field {error}") from error

    def masks(self, graph: Graph) -> dict[int, np.ndarray]:
        """Boolean keep mask per group index, checked against the graph."""
        self.check(graph)
        out: dict[int, np.ndarray] = {}
        for group in graph.groups:
            if group.name in self.keep:
                mask = np.zeros(group.size, dtype=bool)
                mask[list(self.keep[group.name])] = True
                out[group.index] = mask
        return out

    def check(self, graph: Graph) -> None:
        """Refuse a plan of another model or one that the graph does not allow."""
        if self.graph != graph.fingerprint:
            raise PlanError(
                f"plan belongs to another model: its graph is {self.graph[:12]}, this model's is "
                f"{graph.fingerprint[:12]}; trace the model the plan was made for"
            )
        known = {g.name: g for g in graph.groups}
        for name, kept in self.keep.items():
            if name not in known:
                raise PlanError(f"plan names the group {name!r}, which the model does not have")
            group = known[name]
            if self.sizes.get(name) != group.size:
                raise PlanError(
                    f"{name}: plan says {self.sizes.get(name)} units, model has {group.size}"
                )
            if not kept:
                raise PlanError(f"{name}: plan keeps nothing; at least one unit must stay")
            if list(kept) != sorted(set(kept)) or kept[0] < 0 or kept[-1] >= group.size:
                raise PlanError(
                    f"{name}: kept units must be ascending, distinct, in 0..{group.size - 1}"
                )
            if not group.prunable and len(kept) < group.size:
                raise PlanError(f"{name} may not be pruned: {group.reason}")


def _digest(payload: Mapping[str, Any]) -> str:
    text = json.dumps(payload, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
