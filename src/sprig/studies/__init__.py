"""Experiments that put claims of the papers to the test: a table, a plot, and a verdict computed from the figures.

    from sprig.studies import study
    record = study("rates", quick=True)
    print(record.verdict)

On the command line: `sprig study rates --out rates`. A study's module is loaded when it is asked for.
"""

import importlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from sprig.core.errors import InputError
from sprig.core.workbench import Progress, silent

if TYPE_CHECKING:
    from sprig.studies.record import Record, Study

# name → its module, which holds STUDY; and what it asks, for lists
STUDIES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "rates": (
            "sprig.studies.rates",
            "Loss against the number of neurons: greedy picks, random ones, training.",
        ),
        "random-weights": (
            "sprig.studies.random_weights",
            "Choosing among random weights and random neurons, beside training them.",
        ),
        "ball": (
            "sprig.studies.ball",
            "A clipped neuron on random features learns a ball; what pruning makes of it.",
        ),
        "finetune-or-retrain": (
            "sprig.studies.finetune_or_retrain",
            "A pruned network's weights, its channels or its shape: what is worth keeping.",
        ),
        "weak-submodular": (
            "sprig.studies.weak_submodular",
            "Exact, stochastic and distributed picks of features, and what is promised.",
        ),
    }
)


def find(name: str) -> "Study":
    """The study of that name.

    >>> find("rates").name
    'rates'
    """
    if name not in STUDIES:
        raise InputError(f"unknown study {name!r}; known are {', '.join(STUDIES)}")
    found: Study = importlib.import_module(STUDIES[name][0]).STUDY
    return found


def study(
    name: str,
    *,
    quick: bool = False,
    seeds: Sequence[int] | None = None,
    settings: Any = None,
    folder: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: Progress = silent,
) -> "Record":
    """Carry a study out.

    quick: the small size, seconds, for a first look; it need not bear out what the full size shows. seeds: others than
    the size's own. settings: a size of your own, `dataclasses.replace(find(name).full, ...)`. folder: write
    study.json, study.md, study.html and the plots there, cell by cell; `resume` continues an interrupted study with the
    same figures.
    """
    from sprig.studies.run import carry_out

    found = find(name)
    if settings is not None and quick:
        raise InputError("give quick or settings of your own, not both")
    if settings is None:
        settings = found.quick if quick else found.full
    if seeds is not None:
        settings = replace(settings, seeds=tuple(int(s) for s in seeds))
    return carry_out(found, settings, folder=folder, resume=resume, progress=progress)
