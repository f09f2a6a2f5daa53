"""The workflow: `prune` tells the whole story (story.py); `load` and `verify` come back (recheck.py)."""

from sprig.workflow.byhand import mask, shrink
from sprig.workflow.judging import quality
from sprig.workflow.recheck import load, verify
from sprig.workflow.speed import measure
from sprig.workflow.story import Result, prune, search

__all__ = ["Result", "load", "mask", "measure", "prune", "quality", "search", "shrink", "verify"]
