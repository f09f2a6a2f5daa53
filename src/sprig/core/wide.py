"""Double precision that holds: models often go down to single precision on their own, e.g. in their norms.

There, masked and shrunk differ by rounding: 1e-7, which is what an error of surgery may look like too.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class Widening(TorchFunctionMode):
    """While it is on, whatever asks for float32 gets float64.

    >>> with Widening():
    ...     torch.ones(2, dtype=torch.float64).to(torch.float32).dtype
    torch.float64
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        func = Tensor.double if func is Tensor.float else func
        wider = [torch.float64 if a is torch.float32 else a for a in args]
        named = {k: torch.float64 if v is torch.float32 else v for k, v in (kwargs or {}).items()}
        return func(*wider, **named)


def held(wide: bool) -> AbstractContextManager[Any]:
    """`Widening` where the inputs are wide."""
    return Widening() if wide else nullcontext()
