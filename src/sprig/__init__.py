"""sprig finds the good small network inside a trained large one.

    import sprig
    result = sprig.prune(model, (x,), data, sprig.Budget(macs=0.5))
    result.model            # a plain, smaller module
    result.save("runs/a")   # weights, plan, certificate, report

`import sprig` loads nothing: each name below brings its module, and with it torch, when it is first used, so that
`sprig --help` answers at once.
"""

import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sprig.core.errors import (
        DivergenceError,
        InputError,
        PlanError,
        SprigError,
        StoreError,
        SurgeryError,
        TraceError,
    )
    from sprig.core.path import Path
    from sprig.core.plan import Plan
    from sprig.core.timetable import TimeTable
    from sprig.core.timing import Timing
    from sprig.core.tracing import trace
    from sprig.core.types import Budget, Certificate, Claim, Graph, Outcome
    from sprig.training import finetune, reestimate_batch_norm
    from sprig.workflow import Result, load, mask, measure, prune, search, shrink, verify

__version__ = "0.1.0"

__all__ = [
    "Budget",
    "Certificate",
    "Claim",
    "DivergenceError",
    "Graph",
    "InputError",
    "Outcome",
    "Path",
    "Plan",
    "PlanError",
    "Result",
    "SprigError",
    "StoreError",
    "SurgeryError",
    "TimeTable",
    "Timing",
    "TraceError",
    "finetune",
    "load",
    "mask",
    "measure",
    "prune",
    "reestimate_batch_norm",
    "search",
    "shrink",
    "trace",
    "verify",
]

# Public name → the module that has it. The imports above say the same to type checkers; a test compares them.
_HOME: Mapping[str, str] = MappingProxyType(
    {
        "Budget": "sprig.core.types",
        "Certificate": "sprig.core.types",
        "Claim": "sprig.core.types",
        "DivergenceError": "sprig.core.errors",
        "Graph": "sprig.core.types",
        "InputError": "sprig.core.errors",
        "Outcome": "sprig.core.types",
        "Path": "sprig.core.path",
        "Plan": "sprig.core.plan",
        "PlanError": "sprig.core.errors",
        "Result": "sprig.workflow",
        "SprigError": "sprig.core.errors",
        "StoreError": "sprig.core.errors",
        "SurgeryError": "sprig.core.errors",
        "TimeTable": "sprig.core.timetable",
        "Timing": "sprig.core.timing",
        "TraceError": "sprig.core.errors",
        "finetune": "sprig.training",
        "load": "sprig.workflow",
        "mask": "sprig.workflow",
        "measure": "sprig.workflow",
        "prune": "sprig.workflow",
        "reestimate_batch_norm": "sprig.training",
        "search": "sprig.workflow",
        "shrink": "sprig.workflow",
        "trace": "sprig.core.tracing",
        "verify": "sprig.workflow",
    }
)

if not TYPE_CHECKING:  # else checkers would believe in every name

    def __getattr__(name: str) -> Any:
        """A public name, from its module; called once per name (PEP 562)."""
        if name not in _HOME:
            raise AttributeError(f"module 'sprig' has no attribute {name!r}")
        value = getattr(importlib.import_module(_HOME[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
