"""gRDA, generalised regularised dual averaging (Chao et al., NeurIPS 2020: directional pruning), as an optimiser; and
its form for groups, a reconstruction of sDprun (Li et al. 2021), of which no code was published.

    v_0 = w_0;   v <- v - lr grad f(w);   w = S(v, g)           S: soft threshold, never applied to v itself
    g grows at step n by  c lr^(1/2 + mu) (n^mu - (n - 1)^mu),  so that g = c lr^(1/2) (n lr)^mu at a constant rate
    group: w_u = (1 - g k_u / |v_u|)_+ v_u,  k_u = sqrt(n_u) or 1

c → c, mu → mu, v → "accumulator", g → the parameter group's "threshold", n → its "step", k → `scale`. No momentum and
no weight decay: the theory has none. With c = 0 it is SGD, bit for bit. Sparsity follows from c, mu and the number of
steps; it cannot be asked for. Sums of weights of less than 32 bits are kept in float32: small steps would be lost.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sprig.core.errors import InputError
from sprig.core.types import Graph
from sprig.methods.penalties.group_lasso import block_soft
from sprig.methods.penalties.idle import FEW
from sprig.methods.penalties.listwise import check
from sprig.methods.penalties.scope import Scope, penalised, wide
from sprig.methods.penalties.units import Units, units_of


@dataclass(frozen=True)
class Grda:
    """Settings of gRDA on single weights; raise c until the first epochs suffer, with mu fixed.

    >>> Grda(c=1e-3).mu
    0.51
    """

    c: float = 5e-3  # size of the threshold
    mu: float = 0.51  # how it grows with the steps: 0.501, 0.51, 0.55; larger is faster

    def __post_init__(self) -> None:
        _check(self.c, self.mu)


@dataclass(frozen=True)
class GroupGrda:
    """Settings of gRDA on whole units of channels.

    >>> GroupGrda().scale
    'size'
    """

    c: float = 5e-3  # size of the threshold
    mu: float = 0.51  # how it grows with the steps
    scale: Literal["size", "one"] = "size"  # by the root of their weights, or alike

    def __post_init__(self) -> None:
        _check(self.c, self.mu)
        check(scale=(self.scale, self.scale in ("size", "one"), "size or one"))


def _check(c: float, mu: float) -> None:
    check(c=(c, c >= 0, "at least 0"), mu=(mu, 0 < mu < 1, "in (0, 1)"))


class GRDA(torch.optim.Optimizer):
    """SGD whose weights are the thresholded sum of all that it learned.

    A parameter group may set `c=0.0`: its parameters are trained by plain SGD. With `units`, the parameters that these
    name must be in one parameter group of their own, and are thresholded unit by unit.

    >>> w = torch.nn.Parameter(torch.tensor([1.0, 0.001]))
    >>> optimizer = GRDA([w], lr=0.1, c=0.05, mu=0.5)
    >>> w.grad = torch.zeros(2)
    >>> optimizer.step()
    >>> w.tolist()[1], round(optimizer.param_groups[0]["threshold"], 6)
    (0.0, 0.005)
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float,
        c: float = 5e-3,
        mu: float = 0.51,
        units: Units | None = None,
        scale: str = "size",
    ) -> None:
        _check(c, mu)
        check(
            lr=(lr, lr > 0, "more than 0"), scale=(scale, scale in ("size", "one"), "size or one")
        )
        super().__init__(
            params, {"lr": lr, "c": c, "mu": mu, "step": 0, "threshold": 0.0, "units": False}
        )
        self._units, self._scale = units, scale
        marked = [g for g in self.param_groups if g["units"]]
        if units is not None and (len(marked) != 1 or len(marked[0]["params"]) != len(units.names)):
            raise InputError(
                "give the parameters of the units, in their order, as one parameter group with units=True"
            )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One step; parameters without a gradient keep their accumulators."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            lr, mu, n = group["lr"], group["mu"], group["step"] + 1
            group["step"] = n
            group["threshold"] += group["c"] * lr ** (0.5 + mu) * (n**mu - (n - 1) ** mu)
            sums = []
            for p in group["params"]:
                state = self.state[p]
                if "accumulator" not in state:
                    wide = torch.promote_types(p.dtype, torch.float32)
                    state["accumulator"] = p.detach().to(wide, copy=True)
                if p.grad is not None:
                    state["accumulator"].add_(p.grad, alpha=-lr)
                sums.append(state["accumulator"])
            if group["units"] and self._units is not None:
                moved = self._blocks(sums, group["threshold"])
            else:
                moved = _threshold(sums, group["threshold"])
            if moved:
                torch._foreach_copy_(group["params"], moved)
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From a checkpoint. The sums stay as they were saved: torch rounds them to the dtype of their weights."""
        super().load_state_dict(state_dict)
        numbers = [n for group in state_dict["param_groups"] for n in group["params"]]
        parameters = [p for group in self.param_groups for p in group["params"]]
        for number, p in zip(numbers, parameters, strict=True):
            saved = state_dict["state"].get(number, {}).get("accumulator")
            if saved is not None:
                self.state[p]["accumulator"] = saved.to(p.device, copy=True)

    @torch.no_grad()
    def idle(self, steps: int) -> str | None:
        """Why its threshold can empty nothing in so many steps; None: it can."""
        small = count = 0
        highest = 0.0
        for group in self.param_groups:
            if group["c"] == 0 and len(self.param_groups) > 1:
                continue  # trained by plain SGD
            threshold = group["c"] * group["lr"] ** (0.5 + group["mu"]) * steps ** group["mu"]
            sizes = [p.abs() for p in group["params"]]
            if group["units"] and self._units is not None:
                scale = self._units.counts.clamp_min(1).sqrt() if self._scale == "size" else 1.0
                sizes = [self._units.norms(group["params"]) / scale]
            small += sum(int((s < threshold).sum()) for s in sizes)
            count += sum(s.numel() for s in sizes)
            highest = max(highest, threshold)
        if small >= FEW * count and count:
            return None
        return (
            f"{type(self).__name__} does nothing with these settings: in {steps:,} steps its threshold comes to "
            f"{highest:.1e}, above {small / max(count, 1):.1%} of the sizes as they are; raise c or mu, or train longer"
        )

    def _blocks(self, sums: list[Tensor], threshold: float) -> list[Tensor]:
        assert self._units is not None
        if threshold == 0.0:
            return sums
        each = torch.full_like(self._units.counts, threshold)
        if self._scale == "size":
            each = each * self._units.counts.sqrt()
        return block_soft(sums, self._units, each.to(sums[0].dtype))


def _threshold(sums: list[Tensor], threshold: float) -> list[Tensor]:
    if threshold == 0.0 or not sums:
        return sums
    sizes = torch._foreach_abs(sums)
    torch._foreach_sub_(sizes, threshold)
    torch._foreach_clamp_min_(sizes, 0.0)
    return [torch.copysign(s, v) for s, v in zip(sizes, sums)]


def grda_for(
    model: nn.Module,
    config: "Grda | GroupGrda",
    *,
    lr: float,
    scope: Scope | None = None,
    graph: Graph | None = None,
) -> GRDA:
    """The optimiser of a model: what is penalised is thresholded, all else is trained by plain SGD."""
    every = {n: p for n, p in model.named_parameters() if p.requires_grad}
    groups: list[dict[str, Any]]
    if isinstance(config, Grda):
        mine = list(penalised(model, scope))
        groups = [{"params": [every[n] for n in mine]}]
        units, scale = None, "size"
    else:
        if graph is None:
            raise InputError(
                "group-grda acts on groups of channels; give graph=sprig.trace(model, ...)"
            )
        units, scale = units_of(graph, model, set(penalised(model, wide(scope)))), config.scale
        mine = list(units.names)
        groups = [{"params": [every[n] for n in mine], "units": True}]
    rest = [p for n, p in every.items() if n not in set(mine)]
    if rest:
        groups.append({"params": rest, "c": 0.0})
    return GRDA(groups, lr=lr, c=config.c, mu=config.mu, units=units, scale=scale)
