"""Whole networks in every backend: what is timed is the network, and what cannot be timed is said."""

import shutil

import numpy as np
import pytest
import torch
from torch import nn

from sprig.core.errors import InputError
from sprig.core.opbench import Bench, Blank, Op
from sprig.core.replay import Replay
from sprig.core.timerun import Stepper, cast, compare, inputs_for, observe, runnable
from sprig.core.timing import Timing

CPU = torch.device("cpu")
X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(128, 4)
    ).eval()  # fmt: skip


def test_a_batch_repeats_the_first_sample() -> None:
    table = torch.arange(5.0)
    args, kwargs = inputs_for(
        {"x": X, "table": table, "n": 3}, Timing(batch=4, dtype="bfloat16"), CPU
    )
    assert args == () and kwargs["n"] == 3
    assert kwargs["x"].shape == (4, 3, 6, 6) and kwargs["x"].dtype == torch.bfloat16
    assert torch.equal(kwargs["x"][3], X[0].bfloat16())
    assert kwargs["table"].shape == (5,), "what all samples share stays as it is"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_timed_is_the_network(dtype: str) -> None:
    model, timing = net(), Timing(batch=3, dtype=dtype)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found = runnable(model, (X,), timing)()
    wanted = model(X[:1].expand(3, -1, -1, -1))
    tolerance = 1e-6 if dtype == "float32" else 0.05
    torch.testing.assert_close(found.float(), wanted, rtol=tolerance, atol=tolerance)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_torch_compile_runs_the_same_network() -> None:
    model, timing = (
        net(),
        Timing(batch=3, threads=1, backend="torch.compile", rounds=3, seconds=0.0),
    )
    compiled = runnable(model, (X,), timing)
    wanted = model(X[:1].expand(3, -1, -1, -1))
    torch.testing.assert_close(compiled(), wanted, rtol=1e-4, atol=1e-5)
    seen = compare(model, model, (X,), timing, ready=compiled)
    assert seen["dense_ms"] > 0 and 0.2 < seen["ratio"] < 5, "one network beside itself"


def test_onnx_runtime_runs_the_same_network() -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model, timing = net(), Timing(batch=3, threads=1, backend="onnxruntime", rounds=3, seconds=0.0)
    (found,) = runnable(model, (X,), timing)()
    wanted = model(X[:1].expand(3, -1, -1, -1)).detach().numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    x, w = Blank((2, 16, 8, 8), "float32"), Blank((32, 8, 3, 3), "float32")
    aten = torch.ops.aten
    conv = Op(aten.conv2d.default, (x, w, None, [2, 2], [1, 1], [1, 1], 2), {})
    linear = Op(aten.linear.default, (Blank((2, 5, 8), "float32"), Blank((4, 8), "float32")), {})
    relu = Op(aten.relu.default, (x,), {})
    bench = Bench(timing, CPU)
    assert [bench.callable(op)()[0].shape for op in (conv, linear)] == [(2, 32, 4, 4), (2, 5, 4)]
    assert all(0 < ms < 1e4 for ms in bench([conv, linear, relu], lambda done, of: None))


def test_every_call_of_the_program_is_timed() -> None:
    model = net()
    replay = Replay(model, (X,), {}, check=False)
    times = iter(range(100))
    steps = Stepper(replay, model, ((X,), {}), clock=lambda: next(times) * 1e-3)
    assert steps.run() == [pytest.approx(1.0)] * len(steps.names)
    assert len(steps.names) == 5
    timing = Timing(batch=2, rounds=3, seconds=0.0)
    seen = observe(model, replay, (X,), timing)
    assert list(seen.node_ms) == steps.names and seen.whole_ms > 0
    assert all(ms > 0 for ms in seen.node_ms.values())


def test_two_networks_in_turn() -> None:
    seen = compare(net(), net(), (X,), Timing(rounds=3, seconds=0.0))
    assert (
        seen["pairs"] == 7 and seen["dense_ms"] > 0 and seen["low"] <= seen["ratio"] <= seen["high"]
    )


class Stubborn(nn.Module):
    """Runs in float32 only."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.dtype != torch.float32:
            raise TypeError("float32 only, please")
        if float(x.sum()) > 1e9:  # depends on values: no export gets through
            return x
        return self.inner(x)


def test_a_network_that_does_not_run_so() -> None:
    x = (torch.randn(2, 4),)
    with pytest.raises(InputError, match=r"does not run in bfloat16 by eager .*please\); choose"):
        runnable(Stubborn(), x, Timing(dtype="bfloat16"))
    pytest.importorskip("onnxscript")
    with pytest.raises(
        InputError, match=r"cannot be exported to ONNX for timing .* choose the backend"
    ):
        runnable(Stubborn(), x, Timing(backend="onnxruntime"))


def test_a_copy_is_cast() -> None:
    model = net().train()
    twin = cast(model, Timing(dtype="bfloat16"))
    assert not twin.training and model.training
    assert twin[0].weight.dtype == torch.bfloat16 and model[0].weight.dtype == torch.float32
