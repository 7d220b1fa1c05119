"""Source expressions: views, cuts, joins, and which of them copy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from quire.errors import InternalError
from quire.graph.ir import Axis, Cat, OneOf, Source, Src, Stack
from quire.graph.shapes import Dim, shape_of
from quire.weights.expressions import RankCut, apply_view, resolve, row_parts

AXES = {
    "heads": Axis(2, "split", 4),
    "kv_heads": Axis(1, "replicate_if_fewer", 1),
    "vocab": Axis(3, "pad", 5),
    "ep": Axis(2, "split", 4),
    "mlp": Axis(3, "split", 6),
    "experts": Axis(4, "whole"),
}
HEADS, VOCAB, MLP = Dim.of("heads"), Dim.of("vocab"), Dim.of("mlp")


class Arrays(dict[str, np.ndarray]):
    """Tensors in memory."""

    def dtype(self, name: str) -> np.dtype[Any]:
        return self[name].dtype

    def array(self, source: Src) -> np.ndarray:
        return apply_view(self[source.name], source.view, {name: axis.full_size for name, axis in AXES.items()})


def counting(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def read(source: Source, tensors: Arrays, rank: int) -> np.ndarray:
    return resolve(source, tensors, RankCut(AXES, rank, 2))


def test_a_rank_gets_a_view_of_its_rows_or_columns() -> None:
    tensors = Arrays(w=counting(8, 6))
    rows = read(Src("w", (HEADS * 2, Dim.of(6))), tensors, 1)
    columns = read(Src("w", (Dim.of(8), MLP)), tensors, 1)
    np.testing.assert_array_equal(rows, tensors["w"][4:])
    np.testing.assert_array_equal(columns, tensors["w"][:, 3:])
    assert np.shares_memory(rows, tensors["w"])
    assert np.shares_memory(columns, tensors["w"])


def test_axes_that_are_whole_or_shared_are_not_cut() -> None:
    tensors = Arrays(w=counting(4, 2))
    for shape in (shape_of("experts", 2), (Dim.of("kv_heads") * 4, Dim.of(2))):
        np.testing.assert_array_equal(read(Src("w", shape), tensors, 1), tensors["w"])


def test_the_last_rank_of_a_padded_axis_ends_in_zeros() -> None:
    tensors = Arrays(w=counting(5, 2) + 1)
    np.testing.assert_array_equal(read(Src("w", (VOCAB, Dim.of(2))), tensors, 0), tensors["w"][:3])
    np.testing.assert_array_equal(
        read(Src("w", (VOCAB, Dim.of(2))), tensors, 1), np.concatenate([tensors["w"][3:], np.zeros((1, 2), np.float32)])
    )


def test_parts_are_cut_before_they_are_joined() -> None:
    tensors = Arrays(q=counting(8, 2), k=counting(4, 2) + 100)
    source = Cat((Src("q", (HEADS * 2, Dim.of(2))), Src("k", (Dim.of("kv_heads") * 4, Dim.of(2)))))
    np.testing.assert_array_equal(read(source, tensors, 1), np.concatenate([tensors["q"][4:], tensors["k"]]))


def test_a_rank_stacks_its_own_experts() -> None:
    tensors = Arrays({f"e{index}": counting(2) + index for index in range(4)})
    source = Stack(tuple(Src(f"e{index}", shape_of(2)) for index in range(4)), "ep")
    np.testing.assert_array_equal(read(source, tensors, 1), np.stack([tensors["e2"], tensors["e3"]]))


def test_one_of_takes_the_first_complete_option() -> None:
    source = OneOf((Cat((Src("a", shape_of(2)), Src("b", shape_of(2)))), Src("c", shape_of(4))))
    fused = Arrays(a=counting(2), c=counting(4) + 7)
    np.testing.assert_array_equal(read(source, fused, 0), fused["c"])
    fused["b"] = counting(2)
    np.testing.assert_array_equal(read(source, fused, 0), [0, 1, 0, 1])


def test_parts_of_rows_are_the_tensors_that_a_source_joins() -> None:
    expert = [Cat((Src(f"gate{e}", (MLP, Dim.of(2))), Src(f"up{e}", (MLP, Dim.of(2))))) for e in range(4)]
    source = OneOf((Src("absent", shape_of(2)), Stack(tuple(expert), "ep")))
    tensors = Arrays({f"{name}{e}": counting(6, 2) + 100 * e for name in ("gate", "up") for e in range(4)})
    cut = RankCut(AXES, 1, 2)
    parts = list(row_parts(source, tensors, cut))
    assert [part.name for part in parts if isinstance(part, Src)] == ["gate2", "up2", "gate3", "up3"]
    rows = np.concatenate([resolve(part, tensors, cut) for part in parts])
    np.testing.assert_array_equal(rows, resolve(source, tensors, cut).reshape(-1, 2))


def test_what_is_no_whole_row_stays_one_part() -> None:
    tensors = Arrays(a=counting(3), b=counting(3) + 10, w=counting(2, 3), v=counting(2, 3))
    columns = Cat((Src("w", shape_of(2, 3)), Src("v", shape_of(2, 3))), axis=1)
    biases = Stack((Cat((Src("a", shape_of(3)), Src("b", shape_of(3)))),) * 4, "ep")
    for source, count in ((columns, 1), (biases, 2)):
        parts = list(row_parts(source, tensors, RankCut(AXES, 0, 2)))
        assert len(parts) == count
        rows = [np.atleast_2d(resolve(part, tensors, RankCut(AXES, 0, 2))) for part in parts]
        np.testing.assert_array_equal(np.concatenate(rows), read(source, tensors, 0))


def test_views_are_made_of_uncut_sizes() -> None:
    tensors = Arrays(w=counting(3, 24))
    source = Src(
        "w",
        (HEADS * 2, Dim.of(3)),
        (("transpose", (1, 0)), ("reshape", (HEADS, 3, 2, 3)), ("index", 1, 2), ("reshape", (HEADS * 2, 3))),
    )
    expected = tensors["w"].T.reshape(4, 3, 2, 3)[2:, 2].reshape(4, 3)
    np.testing.assert_array_equal(read(source, tensors, 1), expected)


@pytest.mark.parametrize(
    "view",
    [
        (("reshape", (3, 2)),),
        (("reshape", (2, 2, 2)),),
        (("slice", 0, 1, 3),),
    ],
)
def test_a_view_that_does_not_fit_is_refused(view: tuple[tuple[object, ...], ...]) -> None:
    with pytest.raises(ValueError, match="shape"):
        apply_view(counting(2, 3), view, {})


def test_a_dimension_that_cannot_be_cut_is_a_bug() -> None:
    with pytest.raises(InternalError, match="one axis times a constant"):
        read(Src("w", (HEADS * 2 + Dim.of("mlp"),)), Arrays(w=counting(14)), 0)


def test_a_rank_needs_a_cut_model() -> None:
    with pytest.raises(InternalError, match="not cut"):
        RankCut({"heads": Axis(4)}, 1, 2)
