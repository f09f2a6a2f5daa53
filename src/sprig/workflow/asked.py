"""What a run was asked for: kept with it, and compared when it is resumed."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

from sprig.core.errors import StoreError
from sprig.core.folder import RunFolder
from sprig.core.types import Budget, Graph


def asked(
    method: str,
    config: Any,
    budget: Budget | None,
    round_to: int,
    alike: bool,
    exclude: Sequence[str],
    seed: int,
    graph: Graph,
) -> dict[str, Any]:
    """The settings of a run, as plain values."""
    plain = (
        asdict(config) if is_dataclass(config) and not isinstance(config, type) else dict(config)
    )
    return {
        "method": method,
        "config": plain,
        "budget": {k: v for k, v in asdict(budget).items() if v is not None} if budget else {},
        "round_to": round_to,
        "alike": alike,
        "exclude": list(exclude),
        "seed": seed,
        **({"modules": [part.name for part in graph.parts]} if graph.parts else {}),
    }


def check_same(folder: RunFolder, made: Mapping[str, Any]) -> None:
    """Refuse to resume a run that was begun with other settings."""
    found = folder.stage("settings")
    for key, value in made.items():
        if found.get(key) != value:
            raise StoreError(
                f"{folder.path} was begun with {key} = {found.get(key)!r}, now it is {value!r}; resume with the "
                "options it was begun with, or use a new folder"
            )
