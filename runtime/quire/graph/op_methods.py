"""A method for each op, as model files call them. Written by tools/op_methods.py from `quire.ops`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from quire.graph.ir import Value, ValueDtype, Weight
from quire.graph.rope import RopeSpec
from quire.graph.shapes import Dim, Shape


class OpMethods(ABC):
    """The ops by name. Values are inputs, weights are weights (None = an absent one), keywords are attributes.

    Raises, each of them: ModelError where shapes do not fit each other.
    """

    @abstractmethod
    def _add_node(
        self, op: str, operands: tuple[Value | Weight | None, ...], attrs: Mapping[str, Any]
    ) -> tuple[Value, ...]:
        """Adds one node and gives its results."""

    def embedding(self, ids: Value, weight: Weight, *, scale: float = 1.0) -> Value:
        """Rows of `weight` by token id, times `scale`.

        Shapes, dtypes, rounding and source: `quire.ops.embedding`.
        """
        (out_result,) = self._add_node("embedding", (ids, weight), {"scale": scale})
        return out_result

    def linear(self, x: Value, weight: Weight, bias: Weight | None = None, *, out_dtype: ValueDtype = "act") -> Value:
        """x @ weight.T + bias, accumulated in float32.

        Shapes, dtypes, rounding and source: `quire.ops.linear`.
        """
        (out_result,) = self._add_node("linear", (x, weight, bias), {"out_dtype": out_dtype})
        return out_result

    def rms_norm(
        self, x: Value, weight: Weight, *, eps: float, weight_offset: float = 0.0, round_before_weight: bool = False
    ) -> Value:
        """x / sqrt(mean(x**2) + eps) * (weight + weight_offset), over the last dimension.

        Shapes, dtypes, rounding and source: `quire.ops.rms_norm`.
        """
        (out_result,) = self._add_node(
            "rms_norm",
            (x, weight),
            {"eps": eps, "weight_offset": weight_offset, "round_before_weight": round_before_weight},
        )
        return out_result

    def layer_norm(self, x: Value, weight: Weight, bias: Weight | None = None, *, eps: float) -> Value:
        """(x - mean) / sqrt(var + eps) * weight + bias, over the last dimension; var is the biased variance.

        Shapes, dtypes, rounding and source: `quire.ops.layer_norm`.
        """
        (out_result,) = self._add_node("layer_norm", (x, weight, bias), {"eps": eps})
        return out_result

    def add(self, a: Value, b: Value) -> Value:
        """a + b in float32, rounded once. Both are [...] in the activation dtype, as is the result.

        Shapes, dtypes, rounding and source: `quire.ops.add`.
        """
        (out_result,) = self._add_node("add", (a, b), {})
        return out_result

    def scale(self, x: Value, *, factor: float) -> Value:
        """x * factor; the factor is float32. x is [...] in the activation dtype or float32, as is the result.

        Shapes, dtypes, rounding and source: `quire.ops.scale`.
        """
        (out_result,) = self._add_node("scale", (x,), {"factor": factor})
        return out_result

    def softcap(self, x: Value, *, cap: float) -> Value:
        """cap * tanh(x / cap): keeps values inside (-cap, cap).

        Shapes, dtypes, rounding and source: `quire.ops.softcap`.
        """
        (out_result,) = self._add_node("softcap", (x,), {"cap": cap})
        return out_result

    def activation(self, x: Value, *, act: str) -> Value:
        """act(x), rounded once; `act` is a name of `quire.ops.activations.ACTIVATIONS`.

        Shapes, dtypes, rounding and source: `quire.ops.activation`.
        """
        (out_result,) = self._add_node("activation", (x,), {"act": act})
        return out_result

    def gated_activation(self, gate: Value, up: Value, *, act: str) -> Value:
        """act(gate) * up, rounded once; `act` is a name of `quire.ops.activations.ACTIVATIONS`.

        Shapes, dtypes, rounding and source: `quire.ops.gated_activation`.
        """
        (out_result,) = self._add_node("gated_activation", (gate, up), {"act": act})
        return out_result

    def split(self, x: Value, *, sizes: Shape, axis: int = -1) -> tuple[Value, ...]:
        """Consecutive views of `sizes` elements along `axis`, in x's dtype.

        Shapes, dtypes, rounding and source: `quire.ops.split`.
        """
        return self._add_node("split", (x,), {"sizes": sizes, "axis": axis})

    def reshape(self, x: Value, *, shape: Shape) -> Value:
        """The same elements in another shape, last dimension fastest, in x's dtype; one size may be -1.

        Shapes, dtypes, rounding and source: `quire.ops.reshape`.
        """
        (out_result,) = self._add_node("reshape", (x,), {"shape": shape})
        return out_result

    def take_rows(self, x: Value, rows: Value) -> Value:
        """x[rows]: rows int32 [L] of x [T, ...], in x's dtype.

        Shapes, dtypes, rounding and source: `quire.ops.take_rows`.
        """
        (out_result,) = self._add_node("take_rows", (x, rows), {})
        return out_result

    def rotary(self, x: Value, positions: Value, *, table: RopeSpec, style: str = "neox") -> Value:
        """Rotates pairs of the first `table.dims` elements of every head by an angle that grows with the position.

        Shapes, dtypes, rounding and source: `quire.ops.rotary`.
        """
        (out_result,) = self._add_node("rotary", (x, positions), {"table": table, "style": style})
        return out_result

    def cache_write(self, cache: Value, k: Value, v: Value) -> Value:
        """Stores k [T, KV, d] and v [T, KV, dv] at `slots` int32 [T] (block_id * block_size + offset).

        Shapes, dtypes, rounding and source: `quire.ops.cache_write`.
        """
        (cache_result,) = self._add_node("cache_write", (cache, k, v), {})
        return cache_result

    def paged_attention(
        self,
        q: Value,
        cache: Value,
        sinks: Weight | None = None,
        *,
        scale: float,
        window: int = 0,
        softcap: float = 0.0,
        causal: bool = True,
        alibi: float = 0.0,
        v_head_dim: int = 0,
    ) -> Value:
        """softmax(scale * q.k) @ v of every query row over the keys it sees.

        Shapes, dtypes, rounding and source: `quire.ops.paged_attention`.
        """
        (out_result,) = self._add_node(
            "paged_attention",
            (q, cache, sinks),
            {
                "scale": scale,
                "window": window,
                "softcap": softcap,
                "causal": causal,
                "alibi": alibi,
                "v_head_dim": v_head_dim,
            },
        )
        return out_result

    def route_experts(
        self, logits: Value, *, k: int, score: str = "softmax", normalize: bool = True, scale: float = 1.0
    ) -> tuple[Value, Value]:
        """The k best experts of every token, and their weights.

        Shapes, dtypes, rounding and source: `quire.ops.route_experts`.
        """
        ids_result, weights_result = self._add_node(
            "route_experts", (logits,), {"k": k, "score": score, "normalize": normalize, "scale": scale}
        )
        return ids_result, weights_result

    def experts(self, x: Value, ids: Value, weights: Value, w13: Weight, w2: Weight, *, act: str) -> Value:
        """Sum over a token's experts, in the order of `ids`, of weight * w2[e] @ (act(w1[e] @ x) * (w3[e] @ x)).

        Shapes, dtypes, rounding and source: `quire.ops.experts`.
        """
        (out_result,) = self._add_node("experts", (x, ids, weights, w13, w2), {"act": act})
        return out_result

    def all_reduce(self, x: Value, bias: Weight | None = None) -> Value:
        """The sum over ranks, plus the bias of the row-cut linear that made the pieces; with one rank, x + bias.

        Shapes, dtypes, rounding and source: `quire.ops.all_reduce`.
        """
        (out_result,) = self._add_node("all_reduce", (x, bias), {})
        return out_result

    def all_gather(self, x: Value, *, axis: int, size: Dim) -> Value:
        """All ranks' pieces joined along `axis`, cut to `size` (padding of the last rank is dropped); with one rank, x.

        Shapes, dtypes, rounding and source: `quire.ops.all_gather`.
        """
        (out_result,) = self._add_node("all_gather", (x,), {"axis": axis, "size": size})
        return out_result

    def add_rms_norm(
        self,
        a: Value,
        b: Value,
        weight: Weight,
        *,
        eps: float,
        weight_offset: float = 0.0,
        round_before_weight: bool = False,
    ) -> tuple[Value, Value]:
        """(a + b, rms_norm(a + b)); the norm reads the rounded sum. Operands and attributes are those of the two ops.

        Shapes, dtypes, rounding and source: `quire.ops.add_rms_norm`.
        """
        sum_result, normed_result = self._add_node(
            "add_rms_norm",
            (a, b, weight),
            {"eps": eps, "weight_offset": weight_offset, "round_before_weight": round_before_weight},
        )
        return sum_result, normed_result

    def rotary_cache_write(
        self, q: Value, k: Value, v: Value, positions: Value, cache: Value, *, table: RopeSpec, style: str = "neox"
    ) -> tuple[Value, Value]:
        """(rotary(q), cache with rotary(k) and v written). Operands and attributes are those of the two ops.

        Shapes, dtypes, rounding and source: `quire.ops.rotary_cache_write`.
        """
        q_result, cache_result = self._add_node(
            "rotary_cache_write", (q, k, v, positions, cache), {"table": table, "style": style}
        )
        return q_result, cache_result
