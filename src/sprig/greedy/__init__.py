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
from sprig.greedy.features import CURVES, FeatureCoverage
from sprig.greedy.leastsquares import LeastSquares
from sprig.greedy.likelihood import LogLikelihood
from sprig.greedy.losses import gold_loss, membership_loss, reward_loss
from sprig.greedy.network import GreedyNetwork, padded
from sprig.greedy.ratios import Ratio, subadditivity_ratio, submodularity_ratio
from sprig.greedy.record import Elimination, Selection, Worth
from sprig.greedy.rules import sample_size
from sprig.greedy.search import RULES, maximise
from sprig.greedy.unfolded import Walk, unfold
from sprig.greedy.wrapped import ErrorFall, SetFunction

if TYPE_CHECKING:
    from sprig.greedy.selector import ForwardSelector

__all__ = [
    "CURVES",
    "RULES",
    "Ceiling",
    "Coverage",
    "Elimination",
    "ErrorFall",
    "FacilityLocation",
    "Factor",
    "FeatureCoverage",
    "ForwardSelector",
    "GreedyNetwork",
    "Guarantees",
    "LeastSquares",
    "LogLikelihood",
    "Ratio",
    "Selection",
    "SetFunction",
    "Walk",
    "Worth",
    "gold_loss",
    "guarantees",
    "maximise",
    "membership_loss",
    "padded",
    "reward_loss",
    "sample_size",
    "subadditivity_ratio",
    "submodularity_ratio",
    "unfold",
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
