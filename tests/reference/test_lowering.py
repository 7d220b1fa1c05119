"""Every op of the set can be lowered, and comes out in the shapes and dtypes that its graph declares."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from quire.device import CacheHandle, ExecutorPlan, ParallelRank, StepContext
from quire.errors import BackendError, InternalError
from quire.graph.ir import Axis, CacheRef, ModelGraph, Part, Src
from quire.graph.ops import OPS
from quire.graph.rope import RopeSpec
from quire.graph.shapes import Dim, DimLike, concrete, shape_of
from quire.graph.trace import Tracer
from quire.reference import REFERENCE
from quire.reference.lowering import lower_reference

SIZES = {"T": 3, "L": 2, "heads": 4, "kv_heads": 2, "mlp": 5, "vocab": 11, "ep": 4}
ROPE = RopeSpec(theta=100.0, dims=4)


def _w(t: Tracer, *shape: DimLike) -> Any:
    name = f"w{len(t._weights)}"
    return t.weight(name, shape, Src(name, shape_of(*shape)))


def _x(t: Tracer, *shape: DimLike, dtype: str = "act") -> Any:
    return t.input(f"x{len(t._inputs)}", shape, dtype)  # type: ignore[arg-type]


def _ids(t: Tracer, *shape: DimLike) -> Any:
    return _x(t, *shape, dtype="i32")


def _cache(t: Tracer) -> Any:
    return t.cache("kv", CacheRef("full", 0))


_USES: dict[str, Callable[[Tracer], Any]] = {
    "embedding": lambda t: t.embedding(_ids(t, "T"), _w(t, "vocab", 8), scale=2.0),
    "linear": lambda t: t.linear(_x(t, "T", 8), _w(t, "mlp", 8), _w(t, "mlp"), out_dtype="f32"),
    "rms_norm": lambda t: t.rms_norm(_x(t, "T", 8), _w(t, 8), eps=1e-6),
    "layer_norm": lambda t: t.layer_norm(_x(t, "T", 8), _w(t, 8), _w(t, 8), eps=1e-6),
    "add": lambda t: t.add(_x(t, "T", 8), _x(t, "T", 8)),
    "scale": lambda t: t.scale(_x(t, "L", "vocab", dtype="f32"), factor=0.5),
    "softcap": lambda t: t.softcap(_x(t, "L", "vocab", dtype="f32"), cap=30.0),
    "activation": lambda t: t.activation(_x(t, "T", 8), act="relu"),
    "gated_activation": lambda t: t.gated_activation(_x(t, "T", "mlp"), _x(t, "T", "mlp"), act="silu"),
    "split": lambda t: t.split(_x(t, "T", 12), sizes=shape_of(4, 8)),
    "reshape": lambda t: t.reshape(_x(t, "T", Dim.of("heads") * 4), shape=shape_of("T", "heads", 4)),
    "take_rows": lambda t: t.take_rows(_x(t, "T", 8), _ids(t, "L")),
    "rotary": lambda t: t.rotary(_x(t, "T", "heads", 4), _ids(t, "T"), table=ROPE),
    "cache_write": lambda t: t.cache_write(_cache(t), _x(t, "T", "kv_heads", 4), _x(t, "T", "kv_heads", 4)),
    "paged_attention": lambda t: t.paged_attention(_x(t, "T", "heads", 4), _cache(t), scale=0.5),
    "route_experts": lambda t: t.route_experts(_x(t, "T", 4, dtype="f32"), k=2),
    "experts": lambda t: t.experts(
        _x(t, "T", 8), _ids(t, "T", 2), _x(t, "T", 2, dtype="f32"), _w(t, "ep", 10, 8), _w(t, "ep", 8, 5), act="silu"
    ),
    "all_reduce": lambda t: t.all_reduce(_x(t, "T", 8, dtype="f32")),
    "all_gather": lambda t: t.all_gather(_x(t, "L", "vocab", dtype="f32"), axis=-1, size=shape_of("vocab")[0]),
    "add_rms_norm": lambda t: t.add_rms_norm(_x(t, "T", 8), _x(t, "T", 8), _w(t, 8), eps=1e-6),
    "rotary_cache_write": lambda t: t.rotary_cache_write(
        _x(t, "T", "heads", 4),
        _x(t, "T", "kv_heads", 4),
        _x(t, "T", "kv_heads", 4),
        _ids(t, "T"),
        _cache(t),
        table=ROPE,
    ),
}


def _plan(part: Part, world_size: int = 1) -> ExecutorPlan:
    axes = {name: Axis(size) for name, size in SIZES.items() if name not in "TLS"}
    return ExecutorPlan(
        model=ModelGraph(part, (), {}, axes, {}),
        weight_dtype="float32",
        act_dtype="bfloat16",
        kv_dtype="float16",
        block_size=4,
        max_model_len=16,
        max_num_batched_tokens=8,
        max_num_seqs=2,
        max_logits_rows=8,
        parallel=ParallelRank(world_size=world_size),
    )


def _context() -> StepContext:
    device = {
        "full.slots": np.array([4, 5, -1], np.int32),
        "full.block_tables": np.array([[1]], np.int32),
        "query_start_loc": np.array([0, 3], np.int32),
        "num_computed": np.array([0], np.int32),
    }
    return StepContext(None, 4, device)  # type: ignore[arg-type]


def test_every_op_has_a_reference_and_a_case_here() -> None:
    assert set(REFERENCE) == set(OPS)
    assert set(_USES) == set(OPS)


@pytest.mark.parametrize("op", sorted(OPS))
def test_results_are_what_the_graph_declares(op: str) -> None:
    t = Tracer()
    _USES[op](t)
    part = t.part("p.")
    (node,) = part.graph.nodes
    plan = _plan(part)
    names = {"act": plan.act_dtype, "f32": "float32", "i32": "int32"}
    rng = np.random.default_rng(0)
    handle = CacheHandle("full", 0, {name: np.ones((2, 4, 2, 4), np.float16) for name in "kv"})

    def operand(value_id: int) -> Any:
        value = part.graph.values[value_id]
        if value.dtype == "cache":
            return handle
        shape = concrete(value.shape, SIZES)
        if value.dtype == "i32":
            return rng.integers(0, 3, shape).astype(np.int32)
        return rng.standard_normal(shape).astype(names[value.dtype])

    weights = tuple(
        rng.standard_normal(concrete(part.graph.weights[w].shape, SIZES)).astype(np.float32) if w else None
        for w in node.weights
    )
    results = lower_reference(node, part.graph, plan)(_context(), tuple(map(operand, node.inputs)), weights)
    assert len(results) == len(node.outputs)
    for result, value_id in zip(results, node.outputs, strict=True):
        value = part.graph.values[value_id]
        if value.dtype == "cache":
            assert result is handle
            continue
        assert result.shape == concrete(value.shape, SIZES)
        assert str(result.dtype) == names[value.dtype]


def test_rope_rows_end_at_max_model_len() -> None:
    t = Tracer()
    _USES["rotary"](t)
    part = t.part("p.")
    kernel = lower_reference(part.graph.nodes[0], part.graph, _plan(part))
    with pytest.raises(IndexError):
        kernel(_context(), (np.zeros((1, 4, 4), np.float32), np.array([16], np.int32)), ())


def test_more_ranks_than_one_are_refused() -> None:
    t = Tracer()
    _USES["all_reduce"](t)
    part = t.part("p.")
    kernel = lower_reference(part.graph.nodes[0], part.graph, _plan(part, world_size=2))
    with pytest.raises(BackendError, match="2 ranks"):
        kernel(_context(), (np.zeros((3, 8), np.float32),), (None,))


def test_two_sizes_of_the_step_in_one_reshape_are_refused() -> None:
    t = Tracer()
    t.reshape(_x(t, "T", "S", 4), shape=shape_of("S", "T", 4))
    part = t.part("p.")
    with pytest.raises(InternalError, match="more than one size"):
        lower_reference(part.graph.nodes[0], part.graph, _plan(part))
