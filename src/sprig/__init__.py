"""sprig finds the good small network inside a trained large one.

    import sprig
    result = sprig.prune(model, (x,), data, sprig.Budget(macs=0.5))
    result.model            # a plain, smaller module
    result.save("runs/a")   # weights, plan, certificate, report
"""

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
from sprig.core.tracing import trace
from sprig.core.types import Budget, Certificate, Claim, Graph, Outcome
from sprig.training import finetune, reestimate_batch_norm
from sprig.workflow import Result, load, mask, prune, search, shrink, verify

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
    "TraceError",
    "finetune",
    "load",
    "mask",
    "prune",
    "reestimate_batch_norm",
    "search",
    "shrink",
    "trace",
    "verify",
]
