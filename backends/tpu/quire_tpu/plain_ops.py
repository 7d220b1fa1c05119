"""The plain ops in jax.numpy; semantics and rounding are those of `quire.ops`.

Every function computes in float32 and rounds its results once, to the dtype of its input. Shapes: T tokens, D hidden.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import lax

TP = "tp"
"""Name of the mesh axis that collectives run over."""


def f32(x: jax.Array) -> jax.Array:
    """The array in float32."""
    return x.astype(jnp.float32)


def embedding(
    ids: jax.Array,
    weight: jax.Array,
    *,
    scale: float,
    dtype: jnp.dtype,
    first: jax.Array | None,
) -> jax.Array:
    """Rows of `weight` [V, D] by id, times `scale` rounded to `dtype`.

    Args:
        first: the id of this rank's row 0 where ranks share the rows out; other ranks' ids give zeros. Ids that
            padding brings beyond the table take its last row.
    """
    local = ids if first is None else ids - first
    rows = f32(jnp.take(weight, local, axis=0, mode="clip"))
    if first is not None:
        rows = jnp.where(((local >= 0) & (local < weight.shape[0]))[:, None], rows, 0)
    return (rows * f32(jnp.asarray(scale, dtype))).astype(dtype)


def linear(x: jax.Array, weight: jax.Array, bias: jax.Array | None, *, out_dtype: jnp.dtype) -> jax.Array:
    """x [..., in] @ weight.T [in, out] + bias, accumulated in float32."""
    out = matmul(x, weight, (((x.ndim - 1,), (1,)), ((), ())))
    if bias is not None:
        out = out + f32(bias)
    return out.astype(out_dtype)


def matmul(a: jax.Array, b: jax.Array, dims: lax.DotDimensionNumbers) -> jax.Array:
    """lax.dot_general with a float32 result; float32 operands are not rounded to bfloat16 on the way."""
    common = jnp.promote_types(a.dtype, b.dtype)
    precision = lax.Precision.HIGHEST if common == jnp.float32 else lax.Precision.DEFAULT
    return lax.dot_general(
        a.astype(common), b.astype(common), dims, precision=precision, preferred_element_type=jnp.float32
    )


def rms_norm(
    x: jax.Array,
    weight: jax.Array,
    *,
    eps: float,
    weight_offset: float,
    round_before_weight: bool,
) -> jax.Array:
    """x / sqrt(mean(x**2) + eps) * (weight + weight_offset) over the last dimension."""
    x32 = f32(x)
    normed = x32 * lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + eps)
    if round_before_weight:
        normed = f32(normed.astype(x.dtype))
    return (normed * (f32(weight) + weight_offset)).astype(x.dtype)


def layer_norm(x: jax.Array, weight: jax.Array, bias: jax.Array | None, *, eps: float) -> jax.Array:
    """(x - mean) / sqrt(var + eps) * weight + bias over the last dimension."""
    x32 = f32(x)
    centered = x32 - jnp.mean(x32, axis=-1, keepdims=True)
    variance = jnp.mean(centered * centered, axis=-1, keepdims=True)
    normed = centered * lax.rsqrt(variance + eps) * f32(weight)
    return (normed if bias is None else normed + f32(bias)).astype(x.dtype)


def add(a: jax.Array, b: jax.Array) -> jax.Array:
    """a + b in float32, rounded once."""
    return (f32(a) + f32(b)).astype(a.dtype)


def add_rms_norm(
    a: jax.Array, b: jax.Array, weight: jax.Array, *, eps: float, weight_offset: float, round_before_weight: bool
) -> tuple[jax.Array, jax.Array]:
    """(a + b, rms_norm(a + b)); the norm reads the rounded sum."""
    total = add(a, b)
    return total, rms_norm(total, weight, eps=eps, weight_offset=weight_offset, round_before_weight=round_before_weight)


def scale(x: jax.Array, *, factor: float) -> jax.Array:
    """x * factor."""
    return (f32(x) * jnp.float32(factor)).astype(x.dtype)


def softcap(x: jax.Array, *, cap: float) -> jax.Array:
    """cap * tanh(x / cap)."""
    return capped(f32(x), cap).astype(x.dtype)


def capped(x: jax.Array, cap: float) -> jax.Array:
    """`softcap` on float32."""
    return jnp.float32(cap) * jnp.tanh(x / jnp.float32(cap))


def activation(x: jax.Array, *, act: str) -> jax.Array:
    """The activation function of every element."""
    return activate(f32(x), act).astype(x.dtype)


def gated_activation(gate: jax.Array, up: jax.Array, *, act: str) -> jax.Array:
    """act(gate) * up, rounded once."""
    return (activate(f32(gate), act) * f32(up)).astype(gate.dtype)


def activate(x: jax.Array, act: str) -> jax.Array:
    """Activation functions on float32, by the names of `quire.graph.ops.ACTIVATIONS`."""
    if act == "silu":
        return x * jax.nn.sigmoid(x)
    if act == "gelu":
        return x * (1 + lax.erf(x * jnp.float32(math.sqrt(0.5)))) * 0.5
    if act == "gelu_tanh":
        inner = jnp.float32(math.sqrt(2 / math.pi)) * (x + jnp.float32(0.044715) * x * x * x)
        return 0.5 * x * (1 + jnp.tanh(inner))
    if act == "relu":
        return jnp.maximum(x, 0)
    assert act == "quick_gelu", f"no activation {act}"
    return x * jax.nn.sigmoid(jnp.float32(1.702) * x)


def rotary(x: jax.Array, cos: jax.Array, sin: jax.Array, *, style: str) -> jax.Array:
    """Rotates the pairs of the first r elements of every head: x [T, H, d], cos and sin float32 [T, r/2]."""
    half = cos.shape[-1]
    cos, sin, x32 = cos[:, None, :], sin[:, None, :], f32(x)
    rotated, rest = x32[..., : 2 * half], x32[..., 2 * half :]
    if style == "neox":
        a, b = rotated[..., :half], rotated[..., half:]
        turned = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
    else:
        assert style == "gptj", f"no rotary style {style}"
        a, b = rotated[..., 0::2], rotated[..., 1::2]
        turned = jnp.stack([a * cos - b * sin, b * cos + a * sin], axis=-1).reshape(rotated.shape)
    return jnp.concatenate([turned, rest], axis=-1).astype(x.dtype)


def all_reduce(x: jax.Array, bias: jax.Array | None, *, world_size: int) -> jax.Array:
    """The sum over ranks, plus a bias once."""
    total = x if world_size == 1 else lax.psum(x, TP)
    return total if bias is None else (f32(total) + f32(bias)).astype(x.dtype)


def all_gather(x: jax.Array, *, axis: int, size: int, world_size: int) -> jax.Array:
    """All ranks' pieces joined along `axis`, cut to `size`."""
    whole = x if world_size == 1 else lax.all_gather(x, TP, axis=axis, tiled=True)
    return lax.slice_in_dim(whole, 0, size, axis=axis)
