"""A plan at hand: the graph it belongs to, and the masked or the smaller copy of its model."""

from collections.abc import Sequence

from torch import nn

from sprig.core import surgery
from sprig.core.example import Example
from sprig.core.plan import Plan
from sprig.core.tracing import trace
from sprig.core.types import Graph, Outcome


def graph_of(
    model: nn.Module, example: Example, plan: Plan, *, modules: Sequence[str] | None = None
) -> Graph:
    """The graph of a model in which the plan was made: with or without channels that norms are taken over.

    `modules`: the submodules that were traced, where the whole model could not be. If it is neither, the graph without;
    checking the plan against it says that it belongs to another model.
    """
    graph = trace(model, example, modules=modules)
    if graph.fingerprint == plan.graph:
        return graph
    through = trace(model, example, norms="cut", modules=modules)
    return through if through.fingerprint == plan.graph else graph


def shrink(model: nn.Module, plan: Plan | Outcome, example_inputs: Example | Graph) -> nn.Module:
    """A physically smaller copy. Weights stay as they are, unless an Outcome brings new ones."""
    return surgery.shrink(model, plan, _graph(model, plan, example_inputs))


def mask(model: nn.Module, plan: Plan | Outcome, example_inputs: Example | Graph) -> nn.Module:
    """A copy with zeros where channels leave: not smaller, the same function as `shrink` gives."""
    return surgery.mask(model, plan, _graph(model, plan, example_inputs))


def _graph(model: nn.Module, plan: Plan | Outcome, given: Example | Graph) -> Graph:
    if isinstance(given, Graph):
        return given
    own = plan.plan if isinstance(plan, Outcome) else plan
    return graph_of(model, given, own) if isinstance(own, Plan) else trace(model, given)
