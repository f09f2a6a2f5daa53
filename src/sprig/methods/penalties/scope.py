"""Which tensors a penalty acts on: weights of layers unless told otherwise, and never in silence."""

from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from sprig.core.errors import InputError
from sprig.training.config import NORMS


@dataclass(frozen=True)
class Scope:
    """What is penalised and cut. Patterns are as in a shell: "layer1.*", "fc.weight".

    >>> Scope(exclude=("fc*",)).biases
    False
    """

    biases: bool = False  # also biases and other vectors
    norms: bool = False  # also scales and shifts of norms
    first: bool = True  # the first layer
    last: bool = True  # the last layer
    exclude: tuple[str, ...] = ()  # parameter names, or patterns of them, to leave alone


def penalised(model: nn.Module, scope: Scope | None = None) -> dict[str, nn.Parameter]:
    """Trainable parameters by name; first and last layer go by the order in which the model names its layers.

    >>> net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 4), nn.Linear(4, 2))
    >>> list(penalised(net)), list(penalised(net, Scope(first=False, biases=True, exclude=("3.*",))))
    (['0.weight', '2.weight', '3.weight'], ['2.weight', '2.bias'])
    """
    scope = Scope() if scope is None else scope
    inside = {
        id(p) for m in model.modules() if isinstance(m, NORMS) for p in m.parameters(recurse=False)
    }
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    layers = [n for n, p in named.items() if p.ndim > 1 and id(p) not in inside]
    skipped = [
        *([] if scope.first else layers[:1]),
        *([] if scope.last else layers[-1:]),
    ]
    owners = {name.rpartition(".")[0] for name in skipped}
    for pattern in scope.exclude:
        if not any(fnmatchcase(name, pattern) for name in named):
            raise InputError(
                f"exclude={pattern!r} fits no trainable parameter; the names are like {', '.join(list(named)[:3])}"
            )
    found = {}
    for name, parameter in named.items():
        norm = id(parameter) in inside
        wanted = scope.norms if norm else parameter.ndim > 1 or scope.biases
        if (
            wanted
            and name.rpartition(".")[0] not in owners
            and not any(fnmatchcase(name, p) for p in scope.exclude)
        ):
            found[name] = parameter
    if not found:
        raise InputError(
            "nothing is left to penalise: all trainable parameters are excluded; exclude fewer"
        )
    return found


def wide(scope: Scope | None) -> Scope:
    """For units, scales and biases count as well: without them a unit is not gone."""
    given = Scope() if scope is None else scope
    return Scope(biases=True, norms=True, first=given.first, last=given.last, exclude=given.exclude)
