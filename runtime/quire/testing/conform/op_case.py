"""An L2 case as data, and the model of one op that stands for it.

The graph around the op is as plain as can be: an embedding whose rows are the op's operands, the op in a layer
(or in the head, where it has a float32 form), and a head that multiplies by the identity. So a case runs through
the public door of every executor, whatever it is made of.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from quire.graph.ir import Axis, CacheArray, CacheRef, KVGroupSpec, ModelGraph, Part, Src
from quire.graph.shapes import L, T, shape_of
from quire.graph.trace import Tracer
from quire.ops.kit import OpBody, OpTrace
from quire.testing.conform.random_weights import RandomWeights
from quire.testing.conform.subject import Dtypes


@dataclass(frozen=True, slots=True)
class OpCase:
    """One op with its shapes, attributes, dtypes and seed.

    Attributes:
        op: as in the op set. variant: short name, unique for the op.
        sizes: sizes by name, as the op's body reads them.
        attrs: attributes of the node.
        lines: (tokens in the cache before, tokens of the step) of each sequence.
        spread: scale of the operands. zero_weights: weights of these names are 0.
        seed: of operands and weights.
    """

    op: str
    variant: str
    sizes: Mapping[str, int]
    attrs: Mapping[str, Any]
    dtypes: Dtypes
    lines: tuple[tuple[int, int], ...] = ((0, 5),)
    spread: float = 1.0
    zero_weights: frozenset[str] = frozenset()
    seed: int = 0

    @property
    def name(self) -> str:
        return f"L2/{self.op}/{self.variant}/{self.dtypes}"

    @property
    def num_rows(self) -> int:
        """Tokens over all lines, prefixes included."""
        return sum(before + new for before, new in self.lines)

    def size(self, name: str, default: int = 0) -> int:
        return self.sizes.get(name, default)


def op_model(case: OpCase, body: OpBody) -> ModelGraph:
    """The model around the op. Its hidden width is that of the wider side; the other is cut or padded with 0."""
    width = max(body.in_width, 1 if body.in_head else body.out_width)
    vocab = max(case.num_rows, body.out_width, width)
    num_kv_heads, head_dim = case.size("kv_heads", 1), case.size("head_dim", 16)
    widths = {"k": head_dim, "v": case.attrs.get("v_head_dim") or head_dim}
    arrays = tuple(CacheArray(name, shape_of("kv_heads", width)) for name, width in widths.items())
    return ModelGraph(
        embed=_embed(width, body.embed_scale),
        layers=(_layer(width, body),),
        heads={"logits": _head(width, body)},
        axes={
            "heads": Axis(case.size("heads", 1)),
            "kv_heads": Axis(num_kv_heads, "replicate_if_fewer"),
            "vocab": Axis(vocab, "pad"),
        },
        kv_groups={"full": KVGroupSpec("full", 0, arrays, 1, "kv")},
    )


def op_weights(case: OpCase, model: ModelGraph, body: OpBody) -> RandomWeights:
    """Operands in the embedding table, identities where the model only passes values on, random numbers else."""
    vocab = model.axes["vocab"].size
    width = max(body.in_width, 1 if body.in_head else body.out_width)
    rng = np.random.default_rng([case.seed, 7])
    given: dict[str, np.ndarray] = {
        "operands": rng.standard_normal((vocab, width)).astype(np.float32) * np.float32(case.spread),
        "identity": np.eye(vocab, width, dtype=np.float32),
        "widen": np.eye(width, body.out_width, dtype=np.float32),
    }
    sizes = model.axis_sizes()
    for part in model.parts():
        for weight in part.graph.weights.values():
            if weight.name in case.zero_weights:
                given[f"op.{weight.name}"] = np.zeros([dim.evaluate(sizes) for dim in weight.shape], np.float32)
    return RandomWeights(model, case.seed, given)


def _embed(width: int, scale: float) -> Part:
    t = Tracer()
    ids = t.input("token_ids", (T,), "i32")
    table = t.weight("operands", ("vocab", width), Src("operands", shape_of("vocab", width)))
    t.output("hidden", t.embedding(ids, table, scale=scale))
    return t.part("embed.")


def _layer(width: int, body: OpBody) -> Part:
    t = Tracer()
    x = t.input("hidden", (T, width))
    positions = t.input("positions", (T,), "i32") if body.uses_positions else None
    cache = t.cache("kv", CacheRef("full", 0)) if body.uses_cache else None
    if body.in_head:
        t.output("hidden", t.scale(x, factor=1.0))
        return t.part("layer.")
    if body.in_width < width:
        x, _ = t.split(x, sizes=shape_of(body.in_width, width - body.in_width))
    trace = OpTrace(t, x, positions, cache)
    y = body.trace(trace)
    if body.out_width < width:
        y = t.linear(y, t.weight("widen", (width, body.out_width), Src("widen", shape_of(width, body.out_width))))
    t.output("hidden", y)
    if cache is not None:
        assert trace.written is not None, "a builder that uses the cache returns it"
        t.output("kv", trace.written)
    return t.part("layer.")


def _head(width: int, body: OpBody) -> Part:
    t = Tracer()
    rows = t.take_rows(t.input("hidden", (T, width)), t.input("logits_indices", (L,), "i32"))
    if body.in_head:
        t.output("logits", body.trace(OpTrace(t, rows, None, None)))
        return t.part("head.")
    identity = t.weight("identity", ("vocab", width), Src("identity", shape_of("vocab", width)))
    t.output("logits", t.linear(rows, identity, out_dtype="f32"))
    return t.part("head.")
