"""split: an array in pieces, as views."""

from __future__ import annotations

from typing import Any

import numpy as np

from quire.graph.ir import Value
from quire.graph.op_spec import REQUIRED, OpArgs, OpSpec, Outputs, shape_error
from quire.graph.shapes import Dim, shape_of
from quire.ops.declaration import Op
from quire.ops.kit import KitCase, OpBody, OpKit, OpTrace
from quire.ops.kit_rows import nothing_draw
from quire.ops.shape_rules import no_flops, present


def split(x: np.ndarray, *, sizes: tuple[int, ...], axis: int = -1) -> tuple[np.ndarray, ...]:
    """Consecutive views of `sizes` elements along `axis`, in x's dtype."""
    return tuple(np.split(x, np.cumsum(sizes)[:-1], axis=axis))


def _shape(args: OpArgs) -> Outputs:
    x, axis, sizes = args.shape(0), args.attrs["axis"] % len(args.shape(0)), args.attrs["sizes"]
    if sum(sizes, Dim.of(0)) != x[axis]:
        raise shape_error("split", f"sizes {sizes} do not add up to {x[axis]}")
    dtype = present(args, 0).dtype
    return tuple(((*x[:axis], size, *x[axis + 1 :]), dtype) for size in sizes)


def _body(case: KitCase) -> OpBody:
    sizes = tuple(case.size(name) for name in ("a", "b", "c"))

    def trace(o: OpTrace) -> Value:
        return o.t.split(o.x, sizes=shape_of(*sizes))[case.size("result")]

    return OpBody(sum(sizes), sizes[case.size("result")], trace)


def _draw(st: Any) -> tuple[Any, Any]:
    pieces = {name: st.integers(1, 40) for name in ("a", "b", "c")}
    return st.fixed_dictionaries({**pieces, "result": st.integers(0, 2)}), nothing_draw(st)


OP = Op(
    spec=OpSpec(
        name="split",
        inputs=("x",),
        weights=(),
        outputs=(),
        attrs={"sizes": REQUIRED, "axis": -1},
        attr_types={"sizes": "Shape"},
        shape=_shape,
        flops=no_flops,
        view=True,
    ),
    reference=split,
    kit=OpKit(
        body=_body,
        cases=tuple((f"result_{i}", {"a": 8, "b": 24, "c": 5, "result": i}, {}, {}) for i in range(3)),
        draw=_draw,
    ),
)
