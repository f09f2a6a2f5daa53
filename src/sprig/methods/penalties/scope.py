"""Which tensors a penalty acts on: weights of layers unless told otherwise, and never in silence."""

from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import Tensor, nn

from sprig.core.errors import InputError
from sprig.training.config import NORMS

# In the names of parameters that are no weights of layers, whatever their shape.
BESIDE = ("bias", "pos", "token", "scale", "gamma", "beta", "table", "mask")
MADE = ("parametrizations.", "weight_g", "weight_v")  # of what another tensor is made from


@dataclass(frozen=True)
class Scope:
    """What is penalised and cut. Patterns are as in a shell: "layer1.*", "fc.weight".

    >>> Scope(exclude=("fc*",)).biases
    False
    """

    biases: bool = False  # also biases and all else that is no weight of a layer: tokens, positions
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
        id(p)
        for m in model.modules()
        for p in m.parameters(recurse=False)
        if isinstance(m, NORMS) or (p.ndim == 1 and "norm" in type(m).__name__.lower())
    }
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    layers = [n for n, p in named.items() if of_a_layer(n, p) and id(p) not in inside]
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
        wanted = scope.norms if norm else name in layers or scope.biases
        if (
            wanted
            and name.rpartition(".")[0] not in owners
            and not any(fnmatchcase(name, p) for p in scope.exclude)
        ):
            found[name] = parameter
    made = next((n for n in found if any(word in n for word in MADE)), None)
    if made is not None:
        raise InputError(
            f"{made} is one of the tensors that a weight is made from (weight norm or the like), and zeros in it make "
            "none in the weight; fold it into the weight first, e.g. by "
            "torch.nn.utils.parametrize.remove_parametrizations, or exclude it"
        )
    if not found:
        raise InputError(
            "nothing is left to penalise: all trainable parameters are excluded; exclude fewer"
        )
    return found


def of_a_layer(name: str, parameter: Tensor) -> bool:
    """Whether a parameter is a layer's weight: no bias, token, position, table or scale, of whatever shape.

    >>> import torch
    >>> [of_a_layer(n, torch.ones(1, 4, 8)) for n in ("fc.weight", "pos_embedding", "mixer.kernel")]
    [True, False, True]
    """
    own = name.rpartition(".")[2].lower()
    if parameter.ndim < 2 or "weight" in own:
        return parameter.ndim > 1
    return sum(side > 1 for side in parameter.shape) > 1 and not any(w in own for w in BESIDE)


def wide(scope: Scope | None) -> Scope:
    """For units, scales and biases count as well: without them a unit is not gone."""
    given = Scope() if scope is None else scope
    return Scope(biases=True, norms=True, first=given.first, last=given.last, exclude=given.exclude)
