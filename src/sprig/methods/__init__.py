"""METHODS: the table of contents of the library, one line per method.

`search(bench, config)` gives a `Path` (what to keep, for every budget); `realise(bench, plan, config)` gives the
weights for a plan in the original shapes. Both only read the workbench's model.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from sprig.core.path import Path
from sprig.core.plan import Plan
from sprig.core.types import Outcome
from sprig.core.workbench import Workbench
from sprig.methods.greedy import gramwise, loss, refit
from sprig.methods.scores import magnitude, random

GREEDY = "Ye et al. 2020, Good Subnetworks Provably Exist"


@dataclass(frozen=True)
class Method:
    """A way to choose what stays, as the front door sees it."""

    name: str
    summary: str
    config: type
    reference: str
    search: Callable[[Workbench, Any], Path]
    realise: Callable[[Workbench, Plan, Any], Outcome]
    labels: bool = False  # needs targets
    floors: Callable[[Workbench, Path, Any], Path] | None = None  # adds lower bounds to a path
    ratios: Callable[[Workbench, Plan, Any], Any] | None = (
        None  # submodularity of the returned sets
    )
    rates: Callable[[Workbench, Plan, Any], Any] | None = None  # how fast the error must fall


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        m.name: m
        for m in (
            Method("refit", "forward selection, consumers re-solved by least squares (default)",
                   refit.RefitConfig, "block orthogonal matching pursuit; El Halabi et al. 2022",
                   refit.search, refit.realise,
                   floors=refit.floors, ratios=refit.ratios),
            Method("reweight", "forward selection, one scale per channel refitted",
                   gramwise.ReweightConfig, "orthogonal matching pursuit on channel contributions",
                   gramwise.search, gramwise.realise),
            Method("uniform", "the paper's local imitation: equal weights, picks may repeat",
                   gramwise.UniformConfig, GREEDY, gramwise.search, gramwise.realise,
                   rates=gramwise.rates),
            Method("linesearch", "the follow-up's step: weights moved by exact line search",
                   gramwise.LinesearchConfig, "Ye et al. 2020, Greedy Optimization Provably Wins the Lottery",
                   gramwise.search, gramwise.realise),
            Method("loss", "the paper's own algorithm: lowers the whole network's loss, layer by layer",
                   loss.LossConfig, GREEDY, loss.search, loss.realise, labels=True),
            Method("magnitude", "baseline: channels with the largest weights",
                   magnitude.MagnitudeConfig, "Li et al. 2017, Pruning Filters for Efficient ConvNets",
                   magnitude.search, magnitude.realise),
            Method("random", "baseline: channels drawn at random",
                   random.RandomConfig, "the control every comparison needs", random.search, random.realise),
        )
    }
)  # fmt: skip
