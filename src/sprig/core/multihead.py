"""torch's own multi-head attention once heads, inner dimensions or inputs have left it.

`nn.MultiheadAttention` takes every size from `embed_dim`, so that it refuses tensors of other sizes. `narrow` gives
such a module the class below, which computes the same function and takes its sizes from its tensors.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sprig.core.errors import SurgeryError


class NarrowAttention(nn.MultiheadAttention):
    """Multi-head attention whose inner width need not be that of the stream.

    Same parameters, arguments and results as `nn.MultiheadAttention`; made by `narrow` alone. `scale` is the one the
    module was trained with: it does not change when inner dimensions leave.
    """

    scale: float

    def forward(  # type: ignore[override]
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As `nn.MultiheadAttention.forward`."""
        if is_causal and attn_mask is None:
            raise RuntimeError("is_causal is a hint about attn_mask; give attn_mask too")
        batched = query.dim() == 3
        if not batched:
            query, key, value = (t.unsqueeze(1) for t in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        elif self.batch_first:
            query, key, value = (t.transpose(0, 1) for t in (query, key, value))
        length, batch, _ = query.shape
        q, k, v = self._projected(query, key, value)
        if self.bias_k is not None and self.bias_v is not None:
            k = torch.cat([k, self.bias_k.repeat(1, batch, 1)])
            v = torch.cat([v, self.bias_v.repeat(1, batch, 1)])
        q, k, v = (
            t.reshape(t.shape[0], batch, self.num_heads, -1).permute(1, 2, 0, 3) for t in (q, k, v)
        )  # batch, head, position, dimension
        if self.add_zero_attn:
            k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
        bias = self._bias(key_padding_mask, attn_mask, k.shape[2], q)
        chance = self.dropout if self.training else 0.0
        weights: Tensor | None = None
        if need_weights:
            score = q @ k.transpose(-2, -1) * self.scale
            weights = torch.softmax(score if bias is None else score + bias, dim=-1)
            weights = F.dropout(weights, chance, self.training)
            mixed = weights @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, bias, chance, scale=self.scale)
        out = self.out_proj(mixed.permute(2, 0, 1, 3).reshape(length, batch, -1))
        if weights is not None and average_attn_weights:
            weights = weights.mean(dim=1)
        if not batched:
            return out.squeeze(1), None if weights is None else weights.squeeze(0)
        return out.transpose(0, 1) if self.batch_first else out, weights

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        rows = _rows(self)
        biases: Any = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.split(rows)
        inputs = zip((query, key, value), _projections(self), biases, strict=True)
        return tuple(F.linear(x, weight, bias) for x, weight, bias in inputs)

    def _bias(
        self, padding: Tensor | None, mask: Tensor | None, keys: int, like: Tensor
    ) -> Tensor | None:
        """Both masks as one that is added to the scores; what was appended to the keys is never masked."""
        out: Tensor | None = None
        if mask is not None:
            extra = mask.unsqueeze(0) if mask.dim() == 2 else mask
            extra = extra.reshape(-1, 1 if mask.dim() == 2 else self.num_heads, *extra.shape[-2:])
            out = _added(extra, keys, like)
        if padding is not None:
            missing = _added(padding[:, None, None, :], keys, like)
            out = missing if out is None else out + missing
        return out


def _added(mask: Tensor, keys: int, like: Tensor) -> Tensor:
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=like.dtype).masked_fill_(mask, float("-inf"))
    return F.pad(mask.to(like.dtype), (0, keys - mask.shape[-1]))


def _projections(module: nn.MultiheadAttention) -> tuple[Tensor, Tensor, Tensor]:
    if module.in_proj_weight is None:
        return module.q_proj_weight, module.k_proj_weight, module.v_proj_weight
    q, k, v = module.in_proj_weight.split(_rows(module))
    return q, k, v


def _rows(module: nn.MultiheadAttention) -> list[int]:
    """Rows of the three projections; values are as wide as the output projection reads."""
    if module.in_proj_weight is None:
        return [
            w.shape[0] for w in (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
        ]
    value = module.out_proj.weight.shape[1]
    scored = module.in_proj_weight.shape[0] - value
    if scored % 2:
        raise SurgeryError(
            "an attention's fused projection lost unlike parts of its queries and keys"
        )
    return [scored // 2, scored // 2, value]


def own(module: nn.Module) -> bool:
    """Whether a module is torch's attention, or a subclass that computes it in torch's way."""
    return isinstance(module, nn.MultiheadAttention) and (
        type(module).forward is nn.MultiheadAttention.forward or isinstance(module, NarrowAttention)
    )


def narrow(model: nn.Module) -> None:
    """Give every attention of torch's that was cut the class that works at its new sizes; in place.

    `num_heads` must be right by now: it cannot be read from the tensors.
    """
    for module in model.modules():
        if not own(module):
            continue
        assert isinstance(module, nn.MultiheadAttention)
        q, k, v = _projections(module)
        sizes = (q.shape[1], k.shape[1], v.shape[1], module.out_proj.weight.shape[0])
        inner = q.shape[0], v.shape[0]
        whole = (module.embed_dim, module.kdim, module.vdim, module.embed_dim)
        if sizes == whole and inner == (module.embed_dim,) * 2:
            continue
        if not isinstance(module, NarrowAttention):
            module.scale = module.head_dim**-0.5  # type: ignore[assignment]
            module.__class__ = NarrowAttention
        module.embed_dim, module.kdim, module.vdim = sizes[3], sizes[1], sizes[2]
        module.head_dim = inner[0] // module.num_heads
        module._qkv_same_embed_dim = (
            False  # nn.TransformerEncoderLayer's fused path reads embed_dim
        )
