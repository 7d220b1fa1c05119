"""Norms against torch, and the places where they round."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch

from quire.ops.layer_norm import layer_norm
from quire.ops.rms_norm import rms_norm

BF16 = ml_dtypes.bfloat16


def _torch(array: np.ndarray) -> torch.Tensor:
    if array.dtype == BF16:
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(array)


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.view(torch.int16).numpy().view(BF16) if tensor.dtype == torch.bfloat16 else tensor.numpy()


@pytest.mark.parametrize("shape", [(5, 48), (3, 4, 16), (1, 1)])
def test_rms_norm_is_torchs(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal(shape, np.float32), rng.standard_normal(shape[-1], np.float32)
    expected = torch.nn.functional.rms_norm(_torch(x), shape[-1:], _torch(weight), eps=1e-5)
    np.testing.assert_allclose(rms_norm(x, weight, eps=1e-5), expected.numpy(), rtol=2e-6, atol=1e-7)


def _hf_llama_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    x32 = x.to(torch.float32)
    x32 = x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + eps)
    return weight * x32.to(x.dtype)


def _hf_gemma_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    x32 = x.float()
    x32 = x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + eps)
    return (x32 * (1.0 + weight.float())).type_as(x)


def test_rounding_points_in_bfloat16() -> None:
    """Each family's norm bit for bit (one in thousands may fall on another side of a tie), and not the other's."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((64, 128)).astype(BF16)
    weight = rng.standard_normal(128).astype(BF16)

    def equal(ours: np.ndarray, theirs: torch.Tensor) -> float:
        return float(np.mean(ours.view(np.uint16) == _numpy(theirs).view(np.uint16)))

    before = rms_norm(x, weight, eps=1e-6, round_before_weight=True)
    after = rms_norm(x, weight, eps=1e-6)
    gemma = rms_norm(x, weight, eps=1e-6, weight_offset=1.0)
    assert before.dtype == BF16
    assert equal(before, _hf_llama_norm(_torch(x), _torch(weight), 1e-6)) > 0.999
    assert equal(after, _hf_llama_norm(_torch(x), _torch(weight), 1e-6)) < 0.95
    assert equal(gemma, _hf_gemma_norm(_torch(x), _torch(weight), 1e-6)) > 0.999
    folded = rms_norm(x, (1.0 + weight.astype(np.float32)).astype(BF16), eps=1e-6)
    assert equal(folded, _hf_gemma_norm(_torch(x), _torch(weight), 1e-6)) < 0.95


@pytest.mark.parametrize("with_bias", [True, False])
def test_layer_norm_is_torchs(with_bias: bool) -> None:
    rng = np.random.default_rng(2)
    x, weight = rng.standard_normal((7, 40), np.float32) + 3, rng.standard_normal(40, np.float32)
    bias = rng.standard_normal(40, np.float32) if with_bias else None
    torch_bias = None if bias is None else _torch(bias)
    expected = torch.nn.functional.layer_norm(_torch(x), (40,), _torch(weight), torch_bias, 1e-5)
    np.testing.assert_allclose(layer_norm(x, weight, bias, eps=1e-5), expected.numpy(), rtol=1e-5, atol=2e-6)
