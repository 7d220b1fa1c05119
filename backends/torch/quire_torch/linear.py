"""Products with weights, in torch. Sums are float32; a result is rounded once, to the activation dtype."""

from __future__ import annotations

import torch
from torch.nn import functional


def embedding(
    ids: torch.Tensor, weight: torch.Tensor, *, scale: float = 1.0, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """Rows of `weight` [V, D] by token id int32 [T], times `scale`, which is rounded to `dtype` first."""
    act = weight.dtype if dtype is None else dtype
    rows = functional.embedding(ids, weight)
    if scale == 1.0:
        return rows.to(act)
    factor = torch.tensor(scale, dtype=torch.float32).to(act).item()
    return (rows.float() * factor).to(act)


def linear(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, *, out_dtype: str = "act"
) -> torch.Tensor:
    """x [..., in] @ weight [out, in].T + bias [out]; out_dtype "f32" leaves the sums as they are."""
    if out_dtype == "act" and x.dtype == weight.dtype and (bias is None or bias.dtype == x.dtype):
        return functional.linear(x, weight, bias)
    flat = x.reshape(-1, x.shape[-1])
    out = product_f32(flat, weight)
    if bias is not None:
        out += bias.float()
    out = out.reshape(*x.shape[:-1], weight.shape[0])
    return out if out_dtype == "f32" else out.to(x.dtype)


def product_f32(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """x [T, in] @ weight [out, in].T as float32 [T, out], not rounded on the way.

    NVIDIA devices multiply 16-bit operands into float32; elsewhere the operands are widened first, and a large
    weight piece by piece, so that no second copy of it exists.
    """
    if x.dtype == weight.dtype == torch.float32:
        return functional.linear(x, weight)
    if x.is_cuda and not torch.version.hip and x.dtype == weight.dtype:
        return torch.mm(x, weight.t(), out_dtype=torch.float32)
    wide = x.float()
    pieces = weight.split(max(1, _PIECE_ELEMENTS // weight.shape[1]))
    return torch.cat([functional.linear(wide, piece.float()) for piece in pieces], dim=-1)


_PIECE_ELEMENTS = 1 << 22  # 16 MiB in float32
