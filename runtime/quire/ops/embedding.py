"""embedding: rows of a table by token id."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from quire.graph.op_spec import OpArgs, OpSpec, Outputs
from quire.graph.shapes import num_elements
from quire.ops.declaration import Op, RunContext
from quire.ops.kit import FoundCase, KitCase, NodeOfModel, OpBody, OpKit
from quire.ops.kit_rows import width_draw
from quire.ops.rounding import as_f32, round_to
from quire.ops.shape_rules import no_flops


def embedding(ids: np.ndarray, weight: np.ndarray, *, scale: float = 1.0, dtype: np.dtype | None = None) -> np.ndarray:
    """Rows of `weight` by token id, times `scale`.

    Args:
        ids: int32 [T], all in [0, V). weight: [V, D].
        scale: rounded to the activation dtype first (Gemma: sqrt(D) in bfloat16).
        dtype: the activation dtype; None = the weight's.
    Returns: [T, D] in the activation dtype.
    Raises: IndexError on an id outside the table.
    """
    if ids.size and int(ids.min()) < 0:
        raise IndexError(f"token id {int(ids.min())} is negative")
    act = weight.dtype if dtype is None else dtype
    rows = as_f32(weight[ids])
    factor = np.asarray(scale, np.float32).astype(act).astype(np.float32)
    return round_to(rows * factor, act)


def _shape(args: OpArgs) -> Outputs:
    return (((*args.shape(0), args.weight_shape(0)[1]), "act"),)


def _rows_read(args: OpArgs, sizes: Mapping[str, int], num_bytes: int) -> int:
    num_rows = num_elements(args.shape(0)).evaluate(sizes)
    stored = args.weight_shape(0)[0].evaluate(sizes)
    return num_bytes * min(num_rows, stored) // stored


def _run_keywords(run: RunContext) -> dict[str, Any]:
    return {"dtype": run.act_dtype}


def _body(case: KitCase) -> OpBody:
    width, scale = case.size("width"), float(case.attrs.get("scale", 1.0))
    return OpBody(width, width, lambda o: o.t.scale(o.x, factor=1.0), embed_scale=scale)


def _of_node(n: NodeOfModel) -> FoundCase:
    return {"width": n.cut(n.weight_shape(0)[1])}, n.attrs()


OP = Op(
    spec=OpSpec(
        name="embedding",
        inputs=("ids",),
        weights=("weight",),
        outputs=("out",),
        attrs={"scale": 1.0},
        shape=_shape,
        flops=no_flops,
        contracts=lambda args: (args.weight_shape(0)[0],),
        weight_bytes_read=_rows_read,
    ),
    reference=embedding,
    run_keywords=_run_keywords,
    kit=OpKit(
        body=_body,
        cases=(
            ("plain", {"width": 24}, {}, {}),
            ("one_token", {"width": 16}, {}, {"lines": ((0, 1),)}),
            ("scale_that_rounds", {"width": 16}, {"scale": 59.866518188383935}, {}),
        ),
        draw=lambda st: (width_draw(st), st.fixed_dictionaries({"scale": st.floats(0.125, 64.0, width=32)})),
        of_node=_of_node,
        takes_matrices=True,
    ),
)
