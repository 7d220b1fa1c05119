"""reshape: the same elements in another shape, as a view."""

from __future__ import annotations

import numpy as np

from quire.graph.ir import Value
from quire.graph.op_spec import REQUIRED, OpArgs, OpSpec, Outputs, shape_error
from quire.graph.shapes import num_elements, shape_of
from quire.ops.declaration import Op
from quire.ops.kit import KitCase, OpBody, OpKit, OpTrace
from quire.ops.kit_attention import heads_draw
from quire.ops.kit_rows import nothing_draw
from quire.ops.shape_rules import no_flops, present


def reshape(x: np.ndarray, *, shape: tuple[int, ...]) -> np.ndarray:
    """The same elements in another shape, last dimension fastest, in x's dtype; one size may be -1."""
    return x.reshape(shape)


def _shape(args: OpArgs) -> Outputs:
    shape = args.attrs["shape"]
    if num_elements(shape) != num_elements(args.shape(0)):
        raise shape_error("reshape", f"{args.shape(0)} does not have the elements of {shape}")
    return ((shape, present(args, 0).dtype),)


def _body(case: KitCase) -> OpBody:
    """Rows of a strided half as [T, heads, d] and back."""
    heads, dim = case.size("heads"), case.size("head_dim")

    def trace(o: OpTrace) -> Value:
        _, x = o.t.split(o.x, sizes=shape_of(heads * dim, heads * dim))
        return o.flat(o.t.scale(o.heads(x, heads, dim), factor=1.0), heads * dim)

    return OpBody(2 * heads * dim, heads * dim, trace)


OP = Op(
    spec=OpSpec(
        name="reshape",
        inputs=("x",),
        weights=(),
        outputs=("out",),
        attrs={"shape": REQUIRED},
        attr_types={"shape": "Shape"},
        shape=_shape,
        flops=no_flops,
        view=True,
    ),
    reference=reshape,
    kit=OpKit(
        body=_body,
        cases=(("heads", {"heads": 3, "head_dim": 16}, {}, {}),),
        draw=lambda st: (heads_draw(st), nothing_draw(st)),
    ),
)
