"""What coverage.py asks of one model: surgery at random units, or a whole run, to the folder and back."""

import collections
import contextlib
import copy
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from coverage_models import Case, inputs, settle, targets
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from sprig.core.example import Example, inputs_of
from sprig.core.wide import held

SHARE = 0.6  # of the multiply-adds
SAMPLES, BATCHES = 8, 4  # of calibration

Row = dict[str, Any]


class Narrowing(TorchDispatchMode):
    """Whether a model in double precision goes down to single precision on its way all the same."""

    seen = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default:
            self.seen |= args[0].dtype == torch.float64 and out.dtype == torch.float32
        return out


def planned(graph: Any) -> tuple[Any, float]:
    """Random units at 60% of the multiply-adds, or as near as the groups allow; and the least that is reachable."""
    from sprig.core.path import Path as Search
    from sprig.core.types import GroupPath

    draw = np.random.default_rng(0)
    groups, harm = {}, {}
    for group in graph.prunable:
        order = tuple(int(i) for i in draw.permutation(group.size))
        errors = tuple((1 - i / group.size) ** 2 for i in range(group.size + 1))
        groups[group.name], harm[group.name] = GroupPath(group.name, order, (), errors, ()), errors
    path = Search(graph=graph, groups=groups, harm=harm, method="random")
    budget, least = reachable(path)
    return path.at(budget), least


def reachable(path: Any) -> tuple[Any, float]:
    """60% of the multiply-adds, or what can be reached and a tenth of the rest; and what can be reached."""
    import sprig
    from sprig.core.cost import cost

    allocator = path.allocator
    least = allocator.models["macs"](allocator.least()) / cost(path.graph)["macs"]
    return sprig.Budget(macs=max(SHARE, least + 0.1 * (1 - least))), least


def handled(case: Case) -> Row:
    """Everything that is asked of surgery on one model."""
    import sprig
    from sprig.core.cost import cost
    from sprig.core.join import recounted
    from sprig.core.numbers import numbers
    from sprig.core.reload import reshape
    from sprig.core.surgery import mask_, shrink
    from sprig.core.tracing import distance
    from sprig.testing.checks import parameters

    torch.manual_seed(0)
    model = case.build()
    example = inputs(case, model)
    row = stated(case, model)
    if case.modules:
        settle(model, example)
    began = time.process_time()
    graph = sprig.trace(model, example, modules=case.modules)
    row |= found(graph)
    if not graph.prunable:
        return row | {"status": "refused", "seconds": round(time.process_time() - began, 1)}
    plan, least = planned(graph)
    small = shrink(model, plan, graph)
    row |= {
        "least": round(least, 3),
        "kept": round(plan.cost["macs"] / cost(graph)["macs"], 3),
        "cut_s": round(time.process_time() - began, 1),
    }
    live, wide, whole, row["precision"], dense = doubled(case, model, example)
    with held(whole):
        cut, macs = counted_answer(case, shrink(live, plan, graph), wide)
        masked = answer(case, mask_(live, plan.masks(graph), graph), wide)  # a copy already
    if case.modules:  # the rest runs on what the dense parts gave, so it takes the same way
        macs = recounted(small, graph, example)["macs"]
    row |= {"gap": distance(masked, cut), "moved": distance(dense, masked)}
    row["recount"] = macs == plan.cost["macs"] and parameters(small) == plan.cost["params"]
    row["trained"] = trained(case, small, example)
    shapes = {n: tuple(t.shape) for n, t in [*small.named_parameters(), *small.named_buffers()]}
    paused = time.process_time()
    fresh = case.build()  # the model's own work, as at the beginning
    began += time.process_time() - paused
    back = reshape(fresh, shapes, numbers(model, plan.masks(graph), graph)).eval()
    back.load_state_dict(small.state_dict())
    row["reloaded"] = (
        distance(answer(case, back, example), answer(case, small.eval(), example)) == 0
    )
    row["seconds"] = round(time.process_time() - began, 1)
    close = row["gap"] <= (1e-8 if row["precision"] == "float64" else 1e-4)
    good = close and row["moved"] > 1e-6
    good = good and all(row[what] for what in ("recount", "trained", "reloaded"))
    return row | {"status": "ok" if good else "wrong"}


def pruned(case: Case) -> Row:
    """One run as users make it: searched on few inputs, cut, certified, saved, loaded into a fresh model, verified."""
    import sprig
    from sprig.core.tracing import distance

    torch.manual_seed(0)
    model = case.build()
    example = inputs(case, model)
    row = stated(case, model)
    data = [inputs(case, model, SAMPLES, seed) for seed in range(1, BATCHES + 1)]
    data = [batch if isinstance(batch, dict) else batch[0] for batch in data]
    sprig.reestimate_batch_norm(model, data)  # else the signal of random weights dies out
    began = time.process_time()
    path = sprig.search(model, example, data, modules=case.modules)
    row["search_s"] = round(time.process_time() - began, 1)
    budget, least = reachable(path)
    result = sprig.prune(model, example, data, budget, path=path, modules=case.modules)
    row |= {
        "least": round(least, 3),
        "kept": round(result.after.macs / result.before.macs, 3),
        "within": result.after.macs <= budget.macs * result.before.macs,
        "claims": len(result.certificate.claims),
        "failed": [c.name for c in result.certificate.claims if not c.passed],
    }
    unseen = inputs(case, model, 2, BATCHES + 1)
    torch.manual_seed(1)
    fresh = case.build()  # of other weights than the model: all must come from the folder
    with tempfile.TemporaryDirectory() as place:
        folder = result.save(Path(place) / "run")
        row["bytes"] = sum(f.stat().st_size for f in folder.iterdir() if f.is_file())
        back = sprig.load(folder, fresh).eval()
        said = [answer(case, net, unseen) for net in (result.model.eval(), back)]
        row["reloaded"] = distance(*said) == 0
        row["moved"] = distance(answer(case, model, unseen), said[0])
        row["verified"] = sprig.verify(folder, model, data).passed
    row["seconds"] = round(time.process_time() - began, 1)
    good = row["within"] and not row["failed"] and row["reloaded"] and row["verified"]
    good = good and row["moved"] > 1e-6 and type(back) is type(model)
    return row | {"status": "ok" if good else "wrong"}


# ---- parts of it -----------------------------------------------------------------------------------
def stated(case: Case, model: nn.Module) -> Row:
    """What is asked."""
    from sprig.testing.checks import parameters

    row: Row = {"model": case.model, "source": case.source, "params": parameters(model)}
    known = {"spec": case.spec, "size": case.size, "modules": list(case.modules or ())}
    return row | {k: v for k, v in known.items() if v}


def found(graph: Any) -> Row:
    """What tracing says of the groups."""
    reasons = collections.Counter(g.reason.split(";")[0] for g in graph.groups if g.reason)
    return {
        "groups": len(graph.groups),
        "prunable": len(graph.prunable),
        "heads": len({n.module for n in graph.numbers if n.kind == "count" and free(graph, n)}),
        "reasons": [f"{reason[:150]} ({count})" for reason, count in reasons.most_common(3)],
    }


def free(graph: Any, number: Any) -> bool:
    """Whether what lies along a module's own number may leave."""
    return any(graph.groups[i].prunable for i in np.unique(number.axis.group) if i >= 0)


def doubled(
    case: Case, model: nn.Module, example: Example
) -> tuple[nn.Module, Example, bool, str, Any]:
    """The model and its inputs in double precision if it allows that, whether to hold it, what it computes in, and what
    it gives."""
    from sprig.core.tracing import stirred

    wide = pytree.tree_map(
        lambda t: t.double() if isinstance(t, Tensor) and t.is_floating_point() else t, example
    )
    live = stirred(model).double()
    for whole in (True, False):
        with contextlib.suppress(RuntimeError), held(whole), Narrowing() as narrowing:
            dense = answer(case, live, wide)
            said = "float32 inside" if narrowing.seen else "float64"
            return live, wide, whole, said, dense
    live = stirred(model)  # it insists on its own precision
    return live, example, False, "float32", answer(case, live, example)


@torch.no_grad()
def answer(case: Case, model: nn.Module, example: Example) -> Any:
    """What the model gives; where only submodules were traced, what these give too."""
    from sprig.core.parts import one_run

    args, kwargs = inputs_of(copy.deepcopy(example))
    if not case.modules:
        return model(*args, **kwargs)
    final: list[Any] = []
    with last_output(model, final):
        heard = one_run(model, case.modules, args, kwargs)
    return [heard.outputs, final]


@contextlib.contextmanager
def last_output(model: nn.Module, final: list[Any]) -> Iterator[None]:
    """Keeps what the model itself gives while it is on."""
    hook = model.register_forward_hook(lambda module, given, output: final.append(output))
    try:
        yield
    finally:
        hook.remove()


def counted_answer(case: Case, model: nn.Module, example: Example) -> tuple[Any, int]:
    """What the model gives, and its multiply-adds as torch counts them."""
    from sprig.testing.checks import counted

    if case.modules:
        return answer(case, model, example), 0
    return counted(model, *inputs_of(example))


def trained(case: Case, model: nn.Module, example: Example) -> bool:
    """Whether a copy takes a step of gradient descent (away from ones: a last layer of zeros has no other slope)."""
    from sprig.core.tracing import tensors_of

    twin = copy.deepcopy(model).train()
    args, kwargs = inputs_of(copy.deepcopy(example))
    given = (list(args[0]), targets(len(args[0]))) if case.modules else args
    out = tensors_of(twin(*given, **kwargs))
    loss = torch.stack([o if o.dim() == 0 else (o - 1).square().mean() for o in out]).sum()
    loss.backward()
    moving = [p for p in twin.parameters() if p.grad is not None]
    before = [p.detach().clone() for p in moving]
    torch.optim.SGD(moving, lr=1e-3).step()
    finite = all(bool(torch.isfinite(p.grad).all()) for p in moving)
    return finite and any(not torch.equal(a, b) for a, b in zip(before, moving, strict=True))
