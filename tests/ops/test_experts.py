"""Routing and experts against a dense torch formulation."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch

from quire.errors import InternalError
from quire.ops.experts import experts
from quire.ops.route_experts import route_experts


@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
@pytest.mark.parametrize("normalize", [True, False])
def test_route_experts_is_topk(score: str, normalize: bool) -> None:
    logits = np.random.default_rng(0).standard_normal((9, 8), np.float32)
    tensor = torch.from_numpy(logits)
    scores = torch.softmax(tensor, -1) if score == "softmax" else torch.sigmoid(tensor)
    expected, expected_ids = torch.topk(scores, 3, dim=-1)
    if normalize:
        expected = expected / expected.sum(-1, keepdim=True)
    ids, weights = route_experts(logits, k=3, score=score, normalize=normalize, scale=2.5)
    assert ids.dtype == np.int32
    assert weights.dtype == np.float32
    np.testing.assert_array_equal(ids, expected_ids.numpy())
    np.testing.assert_allclose(weights, expected.numpy() * 2.5, rtol=1e-6)


def test_ties_go_to_the_lower_id() -> None:
    ids, weights = route_experts(np.array([[1.0, 5.0, 5.0, 5.0]], np.float32), k=2)
    np.testing.assert_array_equal(ids, [[1, 2]])
    np.testing.assert_allclose(weights, [[0.5, 0.5]])
    many = np.zeros((1, 128), np.float32)
    many[0, 5::3] = 1.0  # enough of them that an unstable sort would mix them up
    np.testing.assert_array_equal(route_experts(many, k=6)[0], [[5, 8, 11, 14, 17, 20]])


def test_an_unknown_score_is_an_error() -> None:
    with pytest.raises(InternalError, match="entmax"):
        route_experts(np.zeros((1, 2), np.float32), k=1, score="entmax")


def _dense(x: np.ndarray, ids: np.ndarray, weights: np.ndarray, w13: np.ndarray, w2: np.ndarray) -> np.ndarray:
    """Every expert for every token, then a weighted sum with a one-hot matrix; float64."""
    x, w13, w2 = x.astype(np.float64), w13.astype(np.float64), w2.astype(np.float64)
    both = np.einsum("td,emd->tem", x, w13)
    mlp = w2.shape[2]
    gate, up = both[..., :mlp], both[..., mlp:]
    every = np.einsum("tem,edm->ted", gate / (1 + np.exp(-gate)) * up, w2)
    mixing = (np.eye(len(w13))[ids] * weights[..., None]).sum(1)
    return np.einsum("te,ted->td", mixing, every)


def test_experts_is_the_dense_mixture() -> None:
    rng = np.random.default_rng(1)
    x, w13, w2 = (rng.standard_normal(s, np.float32) for s in ((5, 12), (4, 14, 12), (4, 12, 7)))
    ids = np.array([[0, 3], [1, 0], [2, 2], [3, 1], [0, 1]], np.int32)
    weights = rng.random((5, 2), np.float32)
    expected = _dense(x, ids, weights, w13, w2)
    np.testing.assert_allclose(experts(x, ids, weights, w13, w2, act="silu"), expected, rtol=1e-4, atol=1e-4)


def test_an_expert_that_no_token_chose_is_not_read() -> None:
    x = np.ones((2, 4), np.float32)
    w13, w2 = np.full((3, 6, 4), np.nan, np.float32), np.full((3, 4, 3), np.nan, np.float32)
    w13[1], w2[1] = 0.1, 0.2
    out = experts(x, np.full((2, 1), 1, np.int32), np.ones((2, 1), np.float32), w13, w2, act="silu")
    assert np.isfinite(out).all()


def test_experts_round_once() -> None:
    rng = np.random.default_rng(2)
    x, w13, w2 = (rng.standard_normal(s).astype(ml_dtypes.bfloat16) for s in ((3, 8), (2, 10, 8), (2, 8, 5)))
    ids, weights = np.array([[0, 1]] * 3, np.int32), np.full((3, 2), 0.5, np.float32)
    wide = experts(x.astype(np.float32), ids, weights, w13.astype(np.float32), w2.astype(np.float32), act="silu")
    np.testing.assert_array_equal(experts(x, ids, weights, w13, w2, act="silu"), wide.astype(ml_dtypes.bfloat16))
