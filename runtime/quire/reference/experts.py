"""Mixture of experts. T tokens, D hidden, E experts, k experts a token, M mlp."""

from __future__ import annotations

import numpy as np

from quire.errors import InternalError
from quire.reference.elementwise import activate, sigmoid
from quire.reference.rounding import as_f32, round_to


def route_experts(
    logits: np.ndarray, *, k: int, score: str = "softmax", normalize: bool = True, scale: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """The k best experts of every token, and their weights.

    Args:
        logits: [T, E]. score: "softmax" over all E experts, or "sigmoid" of each.
        normalize: weights are divided by their sum. scale: multiplies them last.
    Returns: ids int32 [T, k], best first, of equal ones the lower id first; weights float32 [T, k].
    """
    logits32 = as_f32(logits)
    if score == "softmax":
        exp = np.exp(logits32 - logits32.max(axis=-1, keepdims=True))
        scores = exp / exp.sum(axis=-1, keepdims=True)
    elif score == "sigmoid":
        scores = sigmoid(logits32)
    else:
        raise InternalError(f"router score {score!r} has no reference", because="scores are softmax and sigmoid")
    ids = np.argsort(-scores, axis=-1, kind="stable")[:, :k]
    weights = as_f32(np.take_along_axis(scores, ids, axis=-1))
    if normalize:
        weights = weights / weights.sum(axis=-1, keepdims=True)
    return ids.astype(np.int32), weights * np.float32(scale)


def experts(
    x: np.ndarray, ids: np.ndarray, weights: np.ndarray, w13: np.ndarray, w2: np.ndarray, *, act: str
) -> np.ndarray:
    """Sum over a token's experts, in the order of `ids`, of weight * w2[e] @ (act(w1[e] @ x) * (w3[e] @ x)).

    Args:
        x: [T, D]. ids: int32 [T, k]. weights: float32 [T, k].
        w13: [E, 2*M, D], the rows of w1 (gate) above those of w3 (up). w2: [E, D, M].
    Returns: [T, D] in x's dtype, rounded once.
    """
    x32, weights32 = as_f32(x), as_f32(weights)
    used = {int(e): (as_f32(w13[e]), as_f32(w2[e])) for e in np.unique(ids)}
    out = np.zeros(x.shape, np.float32)
    for row in range(x.shape[0]):
        for expert, weight in zip(ids[row], weights32[row], strict=True):
            w13_e, w2_e = used[int(expert)]
            gate, up = np.split(np.matmul(w13_e, x32[row]), 2)
            out[row] += weight * np.matmul(w2_e, activate(gate, act) * up)
    return round_to(out, x.dtype)
