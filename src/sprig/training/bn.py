"""Batch-norm re-estimation: running statistics of the weights as they are now, from calibration data.

Pooled exactly over every value that reaches the layer, in one pass: with batch b of n_b values per channel,
mean m_b and variance v_b,  mean = sum n_b m_b / n  and  var = (sum n_b (v_b + m_b^2)) / n - mean^2, made unbiased
as torch does. While the pass runs, batch norms (and nothing else) normalise with the batch's own
statistics, so that a layer never sees inputs scaled by the outdated ones above it.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sprig.core.errors import DivergenceError, InputError
from sprig.core.types import device_of
from sprig.training.feed import feed


class _Pool:
    """Count, mean and sum of squared deviations per channel, merged batch by batch in float64."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.count = 0
        self.mean: Tensor | float = 0.0
        self.spread: Tensor | float = 0.0

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        x = inputs[0].detach()
        dims = [d for d in range(x.ndim) if d != 1]
        count = x.numel() // x.shape[1]
        if count < 2:
            raise InputError(
                f"{self.name}: one value per channel in a batch has no variance; use larger calibration batches"
            )
        x = x.double()
        mean = x.mean(dims)
        spread = x.var(dims, correction=0) * count
        delta = mean - self.mean
        total = self.count + count
        self.mean = self.mean + delta * (count / total)
        self.spread = self.spread + spread + delta.square() * (self.count * count / total)
        self.count = total


@torch.no_grad()
def reestimate_batch_norm(model: nn.Module, data: Iterable[Any]) -> bool:
    """Set every batch norm's running mean and variance from `data`, in place.

    `data` are batches as everywhere; labels are ignored. Dropout and the rest are in evaluation mode
    meanwhile; training flags come back as they were, momentum is not touched. Returns False, changing
    nothing, if the model has no batch norm with running statistics. A layer that the data never
    reaches keeps its own. Raises `InputError` for empty data, `DivergenceError` for inputs that are
    not finite; the model is then unchanged.

    >>> model = nn.Sequential(nn.BatchNorm1d(1))
    >>> reestimate_batch_norm(model, [torch.tensor([[0.0], [2.0]]), torch.tensor([[4.0], [6.0]])])
    True
    >>> model[0].running_mean.item(), round(model[0].running_var.item(), 4)
    (3.0, 6.6667)
    """
    norms = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    }
    if not norms:
        return False
    flags = {module: module.training for module in model.modules()}
    saved = {name: (m.running_mean, m.running_var) for name, m in norms.items()}
    pools = {name: _Pool(name) for name in norms}
    handles = [m.register_forward_pre_hook(pools[name]) for name, m in norms.items()]
    seen = 0
    try:
        model.eval()
        for module in norms.values():
            module.running_mean = module.running_var = None  # then torch takes the batch's own
        for args, kwargs, _ in feed(data, device_of(model)):
            model(*args, **kwargs)
            seen += 1
    finally:
        for handle in handles:
            handle.remove()
        for name, module in norms.items():
            module.running_mean, module.running_var = saved[name]
        for part, flag in flags.items():
            part.training = flag
    if seen == 0:
        raise InputError("the calibration data is empty; batch norm needs at least one batch")
    for name, pool in pools.items():
        if pool.count and not bool(torch.isfinite(torch.as_tensor(pool.mean + pool.spread)).all()):
            raise DivergenceError(f"{name}: its inputs on the calibration data are not finite")
    for name, module in norms.items():
        pool = pools[name]
        if pool.count and module.running_mean is not None and module.running_var is not None:
            module.running_mean.copy_(torch.as_tensor(pool.mean))
            module.running_var.copy_(torch.as_tensor(pool.spread) / (pool.count - 1))
    return True
