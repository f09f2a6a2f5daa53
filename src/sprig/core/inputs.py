"""Whether a batch is what the model was traced with."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from sprig.core.errors import InputError


def by_key(args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[Any, Any]:
    """Positional inputs by number, the others by name."""
    found: dict[Any, Any] = dict(enumerate(args))
    return {**found, **kwargs}


def check_inputs(
    given: Mapping[Any, Any], wanted: Mapping[Any, Any], *, exact: bool = True
) -> None:
    """The same for inputs by number (positional) or name."""
    if set(given) != set(wanted):
        raise InputError(
            f"a batch gives the inputs {list(given)}, the model was traced with {list(wanted)}; "
            "make the batches like the example inputs"
        )
    for key, want in wanted.items():
        found = given[key]
        if not isinstance(want, Tensor) or not isinstance(found, Tensor):
            continue
        here, there = tuple(found.shape), tuple(want.shape)
        told = f"(batch {here}, example {there})"
        if len(here) != len(there):
            raise InputError(
                f"input {key}: the data has {len(here)} dimensions, the model expects {len(there)} "
                f"{told}; the first dimension counts the samples"
            )
        if len(here) == 2 and here[1] != there[1] and not found.is_floating_point():
            raise InputError(
                f"input {key}: a batch has {here[1]} tokens, the example {there[1]}; pad all batches and the "
                "example to one length, with an attention_mask that marks the padding"
            )
        if len(here) > 1 and here[1] != there[1]:
            what = "channels" if len(here) > 2 else "features"
            raise InputError(
                f"input {key}: the data has {here[1]} {what}, the model expects {there[1]} {told}; "
                f"convert the data or build the model for {here[1]}"
            )
        if exact and here[2:] != there[2:]:
            raise InputError(
                f"input {key}: the data is of size {here[2:]}, the model was traced with "
                f"{there[2:]} {told}; resize the data or give an example of its size"
            )
        if found.is_floating_point() != want.is_floating_point():
            raise InputError(
                f"input {key}: the data is {found.dtype}, the model expects {want.dtype}; "
                "convert it"
            )
