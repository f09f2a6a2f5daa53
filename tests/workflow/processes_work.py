"""What the processes of `test_processes.py` do; the parent calls the same functions alone."""

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn

import sprig
from sprig.core.batches import as_batches
from sprig.core.errors import SprigError
from sprig.core.ranks import Ranks, present
from sprig.core.weights import sha256_tensors
from sprig.greedy import LeastSquares, maximise


def digits(samples: int) -> torch.Tensor:
    return torch.from_numpy(load_digits().images[:samples]).float().unsqueeze(1) / 16


class Small(nn.Module):
    """A stream, a branch added to it, and a batch norm: all that the final pass knows."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
        self.a, self.b = nn.Conv2d(8, 12, 3, padding=1), nn.Conv2d(12, 8, 3, padding=1)
        self.head = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        x = x + self.b(torch.relu(self.a(x)))
        return self.head(x.mean((2, 3)))


def network() -> nn.Module:
    torch.manual_seed(3)
    net = Small()
    with torch.no_grad():
        net.train()(digits(200))  # statistics of the batch norm
    return net.eval()


def figures(result: Any) -> dict[str, Any]:
    return {
        "plan": result.plan.hash,
        "weights": sha256_tensors(result.model.state_dict()),
        "passed": result.certificate.passed,
        "layers": {
            c.name: c.detail["errors"]
            for c in result.certificate.claims
            if c.name.startswith("layer")
        },
        "search": dict(result.record.config["search"]),
    }


def cut(*, processes: bool, method: str = "refit", metric: str = "norm", **more: Any) -> Any:
    """67 samples: five chunks of 14, the last filled up; rows are drawn, not all taken."""
    from sprig.methods import METHODS

    few = {"least_rows": 500, "rows_per_column": 1.0}
    if method == "refit":
        few |= {"sequential_rows": 1500, "ratio_pairs": 4, "metric": metric}
    config = METHODS[method].config(**few)
    data = digits(67)
    return sprig.prune(
        network(), (data[:2],), [data[:40], data[40:]], sprig.Budget(macs=0.5), method=method,
        config=config, processes=processes, **more,
    )  # fmt: skip


def selection(*, processes: bool) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(200, 30, generator=generator, dtype=torch.float64)
    y = x[:, ::3].sum(1) + torch.randn(200, generator=generator, dtype=torch.float64)
    more = {"processes": True} if processes else {}
    found = maximise(LeastSquares(x, y), 6, rule="distributed", parts=3, seed=1, **more)
    return {k: getattr(found, k) for k in ("picks", "values", "evaluations", "critical", "sets")}


def stream() -> Iterator[torch.Tensor]:
    yield from digits(67).split(9)


def told(error: Callable[[], Any]) -> str:
    try:
        error()
    except SprigError as found:
        return f"{type(found).__name__}: {found}"
    return "nothing"


def plans(folder: str) -> None:
    """Everything that must come out as in one process."""
    dist.init_process_group("gloo", timeout=timedelta(seconds=240))
    ranks = present()
    try:
        out = {"refit": figures(cut(processes=True)), "selection": selection(processes=True)}
        if ranks.size == 2:
            out["reweight"] = figures(cut(processes=True, method="reweight"))
            out["fisher"] = figures(cut(processes=True, metric="fisher"))
            out["stream"] = figures(streamed(processes=True))
            Path(folder, f"{ranks.rank}.part").write_text(json.dumps(out))
            out |= refusals(ranks)
        Path(folder, f"{ranks.rank}.json").write_text(json.dumps(out))
    finally:
        dist.destroy_process_group()


def streamed(*, processes: bool) -> Any:
    data = as_batches(stream(), description="a stream")
    net = network()
    return sprig.prune(net, (digits(2),), data, sprig.Budget(macs=0.5), processes=processes)


def refusals(ranks: Ranks) -> dict[str, Any]:
    x = [digits(64)]

    def ask(**more: Any) -> str:
        data = more.pop("data", x)
        return told(
            lambda: sprig.prune(
                network(), (x[0][:2],), data, sprig.Budget(macs=0.5), processes=True, **more
            )
        )

    def failing() -> None:
        raise RuntimeError("out of luck")

    try:
        ranks.lead(failing)
        led = ""
    except Exception as error:
        led = f"{type(error).__name__}: {error}"
    return {
        "modules": ask(modules="auto"),
        "loss": ask(method="loss"),
        "unequal": ask(data=[digits(64 + 3 * ranks.rank)]),
        "led": led,
        "each": ranks.each(list(range(5)), lambda n: [n, ranks.rank]),
        "budget": ask(folder=str(Path(__file__))),
    }
