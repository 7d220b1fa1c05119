"""Normalizations over the last dimension, in torch, with the rounding points of `quire.ops`."""

from __future__ import annotations

import torch


def rms_norm(
    x: torch.Tensor, weight: torch.Tensor, *, eps: float, weight_offset: float = 0.0, round_before_weight: bool = False
) -> torch.Tensor:
    """x / sqrt(mean(x**2) + eps) * (weight + weight_offset)."""
    x32 = x.float()
    normed = x32 * torch.rsqrt(x32.square().mean(dim=-1, keepdim=True) + eps)
    if round_before_weight and x.dtype != torch.float32:
        normed = normed.to(x.dtype).float()
    return (normed * (weight.float() + weight_offset)).to(x.dtype)


def add_rms_norm(
    a: torch.Tensor,
    b: torch.Tensor,
    weight: torch.Tensor,
    *,
    eps: float,
    weight_offset: float = 0.0,
    round_before_weight: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(a + b, rms_norm(a + b)); the norm reads the rounded sum."""
    total = a + b
    return total, rms_norm(total, weight, eps=eps, weight_offset=weight_offset, round_before_weight=round_before_weight)


def layer_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, *, eps: float) -> torch.Tensor:
    """(x - mean) / sqrt(var + eps) * weight + bias; var is the biased variance."""
    x32 = x.float()
    centered = x32 - x32.mean(dim=-1, keepdim=True)
    normed = centered * torch.rsqrt(centered.square().mean(dim=-1, keepdim=True) + eps) * weight.float()
    return (normed if bias is None else normed + bias.float()).to(x.dtype)
