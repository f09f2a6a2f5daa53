"""A penalty bound to a model: what calls it at every step, from any training loop.

    shrinker = Shrinker(model, Halo())            or            shrinker.before_step(lr=...)
    shrinker.attach(optimizer)                                  optimizer.step()
    ... your loop, unchanged ...                                shrinker.after_step(lr=...)

Momentum m makes a gradient count 1 / (1 - m) times, so thresholds are taken with that much more: then "push" and
"prox" of the same penalty rest at the same weights. What clips gradients before the step leaves the penalty whole.
Under Adam a push is normalised away with the rest of the gradient: there, take a mode with a prox (a warning says so).
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sprig.core.contracts import Penalty
from sprig.core.errors import DivergenceError, InputError, StoreError
from sprig.core.types import Graph
from sprig.methods.penalties.gating import live_share
from sprig.methods.penalties.idle import LONG, highest_rate, normalised, refuse_pulls, why_idle
from sprig.methods.penalties.listwise import check, quartiles
from sprig.methods.penalties.scope import Scope, penalised, wide
from sprig.methods.penalties.units import Units


@dataclass(frozen=True)
class Ramp:
    """When the penalty acts, in steps: not before `begin`, then rising over `length` steps.

    >>> [Ramp(begin=10, length=4).at(step) for step in (9, 10, 12, 99)]
    [0.0, 0.25, 0.75, 1.0]
    """

    begin: int = 0
    length: int = 0

    def __post_init__(self) -> None:
        check(
            begin=(self.begin, self.begin >= 0, "at least 0"),
            length=(self.length, self.length >= 0, "at least 0"),
        )

    def at(self, step: int) -> float:
        """The factor on the whole penalty."""
        if step < self.begin:
            return 0.0
        return 1.0 if not self.length else min(1.0, (step - self.begin + 1) / self.length)

    def whole(self, steps: int) -> float:
        """How many steps at full strength the factors of so many steps come to.

        >>> Ramp(begin=10, length=4).whole(16)
        4.5
        """
        acting = max(0, steps - self.begin)
        rising = min(acting, self.length)
        share = rising * (rising + 1) / (2 * self.length) if rising else 0.0
        return share + acting - rising


class Shrinker:
    """A penalty at work on the weights of one model. `graph` is needed by penalties on groups.

    >>> from sprig.methods.penalties.l1 import L1
    >>> layer = nn.Linear(3, 2)
    >>> optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    >>> shrinker = Shrinker(layer, L1(strength=1.0, mode="prox")).attach(optimizer)
    >>> layer(torch.zeros(1, 3)).sum().backward()
    >>> optimizer.step()
    >>> shrinker.statistics()["zeros"]
    1.0
    """

    def __init__(
        self,
        model: nn.Module,
        penalty: Any,
        *,
        scope: Scope | None = None,
        graph: Graph | None = None,
        ramp: Ramp | None = None,
        steps: int | None = None,
        watch: int = 50,
    ) -> None:
        self.model = model
        self.ramp = Ramp() if ramp is None else ramp
        self.total_steps = steps
        self.watch = watch  # steps between two looks for numbers that are not finite; 0: never
        self.step = 0
        self._ahead = -1  # the step that coefficients were moved in
        self.units: Units | None = None
        if hasattr(penalty, "gates"):  # a penalty on gates in the model
            named = penalty.gates(model)
        else:
            named = penalised(model, scope)
        if hasattr(penalty, "over"):  # a penalty on groups
            if graph is None:
                raise InputError(
                    f"{type(penalty).__name__} acts on groups of channels; give graph=sprig.trace(model, ...), or take "
                    "an unstructured penalty"
                )
            allowed = set(penalised(model, wide(scope)))
            self.units = penalty.members(graph, model, allowed)
            penalty = penalty.over(self.units)
            parameters = dict(model.named_parameters())
            named = {name: parameters[name] for name in self.units.names}
        self.penalty: Penalty = penalty
        self.names = tuple(named)
        self.weights: list[Tensor] = list(named.values())
        self.state: dict[str, Any] = penalty.init([w.detach() for w in self.weights])
        self._handles: list[Any] = []

    def attach(
        self, optimizer: torch.optim.Optimizer, *, tell: Callable[[str], None] | None = None
    ) -> "Shrinker":
        """Act at every `optimizer.step()` from now on; warns (or tells) as `warn` does."""
        if self._handles:
            raise InputError("this penalty is attached already; detach it first")
        refuse_pulls(self.model, dict(zip(self.names, self.weights)), optimizer)
        self.warn(optimizer, tell=tell)

        def before(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
            if any(callable(given) for given in (*args[1:], *kwargs.values())):
                raise InputError(
                    "the optimiser computes its gradients inside step(closure), after this penalty would act; call "
                    "before_step at the end of the closure and after_step behind the step"
                )
            self.before_step(lr=self.rate(optimizer)[0])

        def after(optimizer: torch.optim.Optimizer, *_: Any) -> None:
            rate, more = self.rate(optimizer)
            self.after_step(lr=rate * more)

        self._handles = [
            optimizer.register_step_pre_hook(before),
            optimizer.register_step_post_hook(after),
        ]
        return self

    def warn(
        self, optimizer: torch.optim.Optimizer, *, tell: Callable[[str], None] | None = None
    ) -> None:
        """Warn (or tell) where the settings can do nothing, or where this optimiser takes the effect from them."""
        _, boost = self.rate(optimizer)
        mine = {id(w) for w in self.weights}
        lr = max(
            highest_rate(g)
            for g in optimizer.param_groups
            if any(id(p) in mine for p in g["params"])
        )
        # the length of a step of such an optimiser says nothing about pulls
        found = normalised(self.penalty, optimizer) or self.idle(lr=lr, boost=boost)
        if found is not None:
            if tell is not None:
                tell(found)
            else:
                warnings.warn(found, stacklevel=3)

    def detach(self) -> None:
        """Let the optimiser go; the state stays."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    @torch.no_grad()
    def before_step(self, *, lr: float) -> None:
        """With gradients complete: add the penalty's, and let it take its own step.

        May be called several times in one step (a closure): its own step is taken once.
        """
        factor = self.ramp.at(self.step)
        if factor == 0.0:
            return
        first, self._ahead = self._ahead != self.step, self.step
        if (
            first and self.step == self.ramp.begin > 0
        ):  # what it takes from the weights, it takes from these
            self.state = self.penalty.init([w.detach() for w in self.weights])
        if self.penalty.pushes:
            pushes = self.penalty.push(self.weights, self.state)
            pairs = [(w.grad, p) for w, p in zip(self.weights, pushes) if w.grad is not None]
            if pairs:
                grads, added = map(list, zip(*pairs))
                torch._foreach_add_(grads, added, alpha=factor)
        if first:
            self.state = self.penalty.advance(self.weights, self.state, lr=lr * factor)

    @torch.no_grad()
    def after_step(self, *, lr: float) -> None:
        """With weights moved: the prox, for penalties that have one. `lr`: the rate a lasting gradient gets."""
        factor = self.ramp.at(self.step)
        if factor > 0.0 and self.penalty.proximal:
            moved = self.penalty.prox(self.weights, self.state, lr=lr * factor)
            torch._foreach_copy_(self.weights, moved)
        self.step += 1
        if self.watch and self.step % self.watch == 0:
            self.look()

    @torch.no_grad()
    def look(self) -> None:
        """Raise at the first weight, or number of the penalty's state, that is not finite."""
        weights = [(n, w) for n, w in zip(self.names, self.weights) if w.numel()]
        named = [*weights, *self._numbers()]
        sizes = torch._foreach_norm([t for _, t in named], torch.inf)
        broken = ~torch.stack([torch.isfinite(s) for s in sizes])
        if not bool(broken.any()):
            return
        name = named[int(broken.nonzero()[0])][0]
        raise DivergenceError(
            f"training with {type(self.penalty).__name__} diverged by step {self.step}: {name} is not finite; lower "
            "the learning rate, weaken the penalty (its strength, or the rate of its coefficients) or let it rise over "
            "more steps; checkpoints that hold this penalty's state are from before, and intact"
        )

    def _numbers(self) -> list[tuple[str, Tensor]]:
        """The floating-point tensors of the state, by name."""
        found = []
        for key, value in self.state.items():
            if isinstance(value, Tensor):
                found.append((key, value))
            elif isinstance(value, list) and len(value) == len(self.names):
                found += [(f"{key} of {name}", v) for name, v in zip(self.names, value)]
            elif isinstance(value, list):
                found += [(key, v) for v in value if isinstance(v, Tensor)]
        return [(n, t) for n, t in found if t.is_floating_point() and t.numel()]

    @torch.no_grad()
    def value(self) -> float:
        """What the penalty adds to the loss now."""
        return float(self.penalty.value(self.weights, self.state))

    def idle(self, *, lr: float, boost: float = 1.0) -> str | None:
        """Why these settings can do nothing in this training; None: they can do something."""
        steps = self.ramp.whole(LONG if self.total_steps is None else self.total_steps)
        return why_idle(self.penalty, self.weights, self.state, steps=steps, lr=lr, boost=boost)

    def scores(self) -> Tensor:
        """What every unit is worth at the cut: the penalty's own measure, or the root mean square of its weights."""
        if self.units is None:
            raise InputError(f"{type(self.penalty).__name__} knows no units; cut by weights")
        with torch.no_grad():
            if hasattr(self.penalty, "scores"):
                return self.penalty.scores(self.weights, self.state)
            return self.units.norms(self.weights) / self.units.counts.clamp_min(1).sqrt()

    @torch.no_grad()
    def statistics(self) -> dict[str, float]:
        """What to watch: share of zeros and of tiny weights, range of the coefficients, what is at work."""
        if hasattr(self.penalty, "gates"):
            return {"penalty": self.value(), "live": live_share(self.model)}
        count = sum(w.numel() for w in self.weights)
        found = {
            "zeros": sum(int((w == 0).sum()) for w in self.weights) / count,
            "tiny": sum(int((w.abs() < 1e-3).sum()) for w in self.weights) / count,
            "penalty": self.value(),
        }
        if self.units is not None:
            found["units_zero"] = (
                int((self.units.norms(self.weights) == 0).sum()) / self.units.total
            )
        if hasattr(self.penalty, "coefficients"):
            every = self.penalty.coefficients(self.weights, self.state)
            found |= quartiles("coefficient", every)
        if hasattr(self.penalty, "watched"):
            found |= self.penalty.watched(self.weights, self.state)
        return found

    def state_dict(self) -> dict[str, Any]:
        """All that a checkpoint must hold, beside weights and optimiser; raises where training has diverged."""
        self.look()
        settings = repr(self.penalty)
        return {
            "penalty": settings,
            "names": list(self.names),
            "ramp": [self.ramp.begin, self.ramp.length],
            "step": self.step,
            "state": self.state,
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Take up where `state_dict` was made."""
        if saved["penalty"] != repr(self.penalty):
            raise StoreError(
                f"the saved penalty is {saved['penalty']}, this one is {self.penalty!r}; resume with the same settings"
            )
        if list(saved["names"]) != list(self.names):
            raise StoreError(
                f"the saved penalty acts on {len(saved['names'])} parameters, this one on {len(self.names)} or on "
                "others; resume with the same exclusions"
            )
        ramp = [self.ramp.begin, self.ramp.length]
        if list(saved["ramp"]) != ramp:
            raise StoreError(
                "the saved penalty begins after {} steps and rises over {}, this one after {} and over {}; resume with "
                "the same begin and ramp".format(*saved["ramp"], *ramp)
            )
        self.step = int(saved["step"])
        self.state = _like(saved["state"], self.state)

    def rate(self, optimizer: torch.optim.Optimizer) -> tuple[float, float]:
        """Learning rate of the penalised weights, and how many times a lasting gradient counts."""
        wanted = {id(w) for w in self.weights}
        found = set()
        for group in optimizer.param_groups:
            mine = [p for p in group["params"] if id(p) in wanted]
            if mine:
                wanted -= {id(p) for p in mine}
                damped = 1 - float(group.get("dampening", 0.0))
                boost = damped / (1 - m) if (m := float(group.get("momentum", 0.0))) > 0 else 1.0
                found.add((float(group["lr"]), boost))
        if wanted:
            raise InputError(
                f"the optimiser lacks {len(wanted)} of the {len(self.weights)} penalised parameters; give it all, "
                "or exclude those from the penalty"
            )
        if len(found) > 1:
            raise InputError(
                f"the penalised parameters have different learning rates or momenta {sorted(found)}; attach one "
                "penalty to each, or call before_step and after_step yourself"
            )
        (pair,) = found
        return pair


def _like(saved: Any, now: Any) -> Any:
    """The saved state with the layout and device of the present one, so that it goes on with the same bits."""
    if isinstance(now, Tensor):
        return torch.empty_like(now).copy_(saved) if isinstance(saved, Tensor) else saved
    if isinstance(now, list) and isinstance(saved, list) and len(now) == len(saved):
        return [_like(s, n) for s, n in zip(saved, now)]
    if isinstance(now, dict):
        return {k: _like(v, now.get(k)) for k, v in saved.items()}
    return saved
