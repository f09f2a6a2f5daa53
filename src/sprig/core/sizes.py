"""Layers of torch whose own sizes follow from their tensors alone: said again after their tensors were cut."""

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

GATES = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}  # blocks of rows, one per gate


def settle(model: nn.Module) -> None:
    """Set the sizes that transposed convolutions and recurrent layers keep beside their tensors; in place."""
    for module in model.modules():
        if isinstance(module, _ConvTransposeNd):
            _transposed(module)
        elif isinstance(module, nn.RNNBase):
            _recurrent(module)
        elif isinstance(module, nn.RNNCellBase):
            module.input_size, module.hidden_size = (
                module.weight_ih.shape[1],
                module.weight_hh.shape[1],
            )


def _transposed(module: _ConvTransposeNd) -> None:
    """The weight is (inputs, outputs / groups, kernel); conv groups leave whole."""
    module.in_channels = module.weight.shape[0]
    module.out_channels = module.weight.shape[1] * module.groups


def _recurrent(module: nn.RNNBase) -> None:
    enter: Tensor = module.weight_ih_l0  # type: ignore[assignment]
    module.input_size = enter.shape[1]
    module.hidden_size = enter.shape[0] // GATES[module.mode]
    kept = [getattr(module, name, None) for name in module._flat_weights_names]
    if any(a is not b for a, b in zip(module._flat_weights, kept, strict=True)):
        module._init_flat_weights()  # a list of its own beside the parameters
