"""The flag `--norms`: what is done with channels that norms are taken over."""

from typing import TYPE_CHECKING, Annotated

import typer

from sprig.core.errors import InputError

if TYPE_CHECKING:
    from sprig.core.norms import Norms

NormsOption = Annotated[
    str,
    typer.Option(
        "--norms",
        help="cut: channels leave that a LayerNorm or RMSNorm is taken over.",
        metavar="KIND",
    ),
]


def known_norms(text: str) -> "Norms":
    """One of the words that `trace` takes.

    >>> known_norms("cut")
    'cut'
    """
    from sprig.core.norms import NORMS

    for known in NORMS:
        if text == known:
            return known
    raise InputError(f"--norms is {text!r}; known are {', '.join(NORMS)}")
