"""all_gather: the ranks' pieces joined."""

from __future__ import annotations

from typing import Any

import numpy as np

from quire.graph.ir import Value
from quire.graph.op_spec import REQUIRED, OpArgs, OpSpec, Outputs
from quire.graph.shapes import Dim
from quire.ops.collectives import check_one_rank, world_size_keyword
from quire.ops.declaration import Op
from quire.ops.kit import KitCase, OpBody, OpKit, OpTrace
from quire.ops.kit_rows import nothing_draw
from quire.ops.shape_rules import no_flops, present


def all_gather(x: np.ndarray, *, axis: int, size: int, world_size: int = 1) -> np.ndarray:
    """All ranks' pieces joined along `axis`, cut to `size` (padding of the last rank is dropped); with one rank, x.

    x is [...] in any dtype, as is the result.
    """
    check_one_rank("all_gather", world_size)
    return np.take(x, np.arange(size), axis=axis) if x.shape[axis] != size else x


def _shape(args: OpArgs) -> Outputs:
    x, axis = args.shape(0), args.attrs["axis"] % len(args.shape(0))
    return (((*x[:axis], args.attrs["size"], *x[axis + 1 :]), present(args, 0).dtype),)


def _body(case: KitCase) -> OpBody:
    """The collective of one rank, as a head ends with it: its own piece without the padding."""
    width, kept = case.size("width"), case.size("kept")

    def trace(o: OpTrace) -> Value:
        pieces = o.t.linear(o.x, o.weight("w", "vocab", width), out_dtype="f32")
        return o.t.all_gather(pieces, axis=-1, size=Dim.of(kept))

    return OpBody(width, kept, trace, in_head=True)


def _draw(st: Any) -> tuple[Any, Any]:
    return st.fixed_dictionaries({"width": st.integers(1, 90), "kept": st.integers(1, 5)}), nothing_draw(st)


OP = Op(
    spec=OpSpec(
        name="all_gather",
        inputs=("x",),
        weights=(),
        outputs=("out",),
        attrs={"axis": REQUIRED, "size": REQUIRED},
        attr_types={"axis": "int", "size": "Dim"},
        shape=_shape,
        flops=no_flops,
    ),
    reference=all_gather,
    run_keywords=world_size_keyword,
    kit=OpKit(
        body=_body,
        cases=(
            ("one_rank", {"width": 24, "kept": 24}, {}, {}),
            ("one_rank_without_padding", {"width": 24, "kept": 19}, {}, {"lines": ((0, 3),)}),
        ),
        draw=_draw,
    ),
)
