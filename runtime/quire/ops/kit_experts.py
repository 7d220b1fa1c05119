"""The body and draws that `route_experts` and `experts` share."""

from __future__ import annotations

from typing import Any

from quire.graph.ir import Value
from quire.ops.activations import ACTIVATIONS
from quire.ops.kit import KitCase, OpBody, OpTrace


def routed_experts(case: KitCase) -> OpBody:
    """Routing and experts together: a wrong choice or weight shows in the sum."""
    width, mlp, experts = case.size("width"), case.size("mlp"), case.size("experts")
    routing = {name: value for name, value in case.attrs.items() if name != "act"}

    def trace(o: OpTrace) -> Value:
        logits = o.t.linear(o.x, o.weight("router", experts, width), out_dtype="f32")
        ids, weights = o.t.route_experts(logits, **routing)
        w13, w2 = o.weight("w13", experts, 2 * mlp, width), o.weight("w2", experts, width, mlp)
        return o.t.experts(o.x, ids, weights, w13, w2, act=case.attrs.get("act", "silu"))

    return OpBody(width, width, trace)


def routing_draw(st: Any) -> tuple[Any, Any]:
    sizes = {"width": st.integers(1, 40), "mlp": st.integers(1, 40), "experts": st.integers(4, 9)}
    attrs = {
        "k": st.integers(1, 4),
        "normalize": st.booleans(),
        "score": st.sampled_from(("softmax", "sigmoid")),
        "act": st.sampled_from(ACTIVATIONS),
    }
    return st.fixed_dictionaries(sizes), st.fixed_dictionaries(attrs)
