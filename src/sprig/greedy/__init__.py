"""Forward selection for any set function: rules, ready objectives, guarantees as numbers, a scikit-learn selector.

    from sprig.greedy import LeastSquares, guarantees, maximise
    found = maximise(LeastSquares(x, y), 20, rule="stochastic", delta=0.01, seed=0)
    print(found.picks, found.value, found.evaluations)
    print(guarantees(LeastSquares(x, y), found))

`ForwardSelector` needs scikit-learn, which is loaded when the name is first used.
"""

from typing import TYPE_CHECKING, Any

from sprig.core.errors import InputError
from sprig.greedy.bounds import Ceiling, Factor, Guarantees, guarantees
from sprig.greedy.covers import Coverage, FacilityLocation
from sprig.greedy.leastsquares import LeastSquares
from sprig.greedy.likelihood import LogLikelihood
from sprig.greedy.ratios import Ratio, subadditivity_ratio, submodularity_ratio
from sprig.greedy.record import Elimination, Selection, Worth
from sprig.greedy.rules import sample_size
from sprig.greedy.search import RULES, maximise
from sprig.greedy.wrapped import ErrorFall, SetFunction

if TYPE_CHECKING:
    from sprig.greedy.selector import ForwardSelector

__all__ = [
    "RULES",
    "Ceiling",
    "Coverage",
    "Elimination",
    "ErrorFall",
    "FacilityLocation",
    "Factor",
    "ForwardSelector",
    "Guarantees",
    "LeastSquares",
    "LogLikelihood",
    "Ratio",
    "Selection",
    "SetFunction",
    "Worth",
    "guarantees",
    "maximise",
    "sample_size",
    "subadditivity_ratio",
    "submodularity_ratio",
]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """`ForwardSelector`, with scikit-learn (PEP 562)."""
        if name != "ForwardSelector":
            raise AttributeError(f"module 'sprig.greedy' has no attribute {name!r}")
        try:
            from sprig.greedy.selector import ForwardSelector as found
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "sklearn":
                raise
            raise InputError(
                "ForwardSelector needs scikit-learn, which is not installed: pip install 'torch-sprig[select]'"
            ) from error
        globals()[name] = found
        return found
