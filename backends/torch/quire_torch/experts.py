"""Mixture of experts, in torch: one product per expert over the rows that chose it."""

from __future__ import annotations

import torch

from quire.errors import InternalError
from quire_torch.elementwise import activate
from quire_torch.linear import product_f32


def route_experts(
    logits: torch.Tensor, *, k: int, score: str = "softmax", normalize: bool = True, scale: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """The k best experts of every token of logits [T, E]: ids int32 [T, k], of equal ones the lower first; weights
    float32 [T, k]."""
    if score == "softmax":
        scores = torch.softmax(logits.float(), dim=-1)
    elif score == "sigmoid":
        scores = torch.sigmoid(logits.float())
    else:
        raise InternalError(f"router score {score!r} has no torch kernel", because="scores are softmax and sigmoid")
    ordered, ids = torch.sort(scores, dim=-1, descending=True, stable=True)
    weights = ordered[:, :k]
    if normalize:
        weights = weights / weights.sum(dim=-1, keepdim=True)
    return ids[:, :k].to(torch.int32), weights * scale


def experts(
    x: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor, w13: torch.Tensor, w2: torch.Tensor, *, act: str
) -> torch.Tensor:
    """Sum over a token's experts of weight * w2[e] @ (act(w1[e] @ x) * (w3[e] @ x)), float32 until the end.

    Waits for the device to learn which experts were chosen.

    Args:
        x: [T, D]. ids: int32 [T, k]. weights: float32 [T, k]. w13: [E, 2*M, D]. w2: [E, D, M].
    """
    out = torch.zeros(x.shape, dtype=torch.float32, device=x.device)
    for expert in torch.unique(ids).tolist():
        rows, choice = torch.nonzero(ids == expert, as_tuple=True)
        gate, up = product_f32(x.index_select(0, rows), w13[expert]).chunk(2, dim=-1)
        result = product_f32(activate(gate, act) * up, w2[expert])
        out.index_add_(0, rows, result * weights[rows, choice].unsqueeze(-1))
    return out.to(x.dtype)
