"""The one reader of weights: each comes once with its uses, pieces are sorted by matrix, all bytes are counted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest

from quire.device import ParallelRank, PlanWeight, WeightPiece, WeightSource, WeightStream, plan_weights
from quire.errors import BackendError, ModelError
from quire.graph.ir import ModelGraph, Src, Weight
from quire.graph.shapes import shape_of
from quire.weights.schemes import QuantizedMatrix, WeightScheme, dequantize, quantize


class InPieces(WeightSource):
    """Another source row by row; a weight with a scheme in integers where `integers` says so."""

    total_bytes = 100

    def __init__(self, source: WeightSource, *, integers: bool = False) -> None:
        self._source, self._integers = source, integers

    def read(self, weight: Weight) -> np.ndarray:
        return self._source.read(replace(weight, scheme="plain"))

    def read_quantized(self, weight: Weight) -> QuantizedMatrix | None:
        return quantize(self.read(weight), WeightScheme.parse(weight.scheme)) if self._integers else None

    def pieces(self, weight: Weight) -> Iterator[np.ndarray]:
        for row in self.read(weight):
            yield row[None]

    def for_rank(self, rank: int) -> WeightSource:
        return self


def ignore(done: int, total: int) -> None:
    """Progress that nobody watches."""


def quantized(model: ModelGraph, name: str) -> ModelGraph:
    """The model with one weight of its first layer in int8."""
    graph = model.layers[0].graph
    weights = {**graph.weights, name: replace(graph.weights[name], scheme="int8")}
    return replace(model, layers=(replace(model.layers[0], graph=replace(graph, weights=weights)), *model.layers[1:]))


def of_shape(*shape: int) -> PlanWeight:
    weight = Weight("w", shape_of(*shape), Src("w", shape_of(*shape)))
    return PlanWeight((weight.source, "plain", "float32"), weight, shape, "float32", ())


def test_a_tied_weight_comes_once_with_both_its_uses(tiny: ModuleType) -> None:
    plan = tiny.make_plan()
    source = tiny.RandomWeights(plan.model)
    uses = {}
    for planned, reader in WeightStream(plan, source, ignore):
        uses[planned.weight.source.name] = [(use.part.prefix, use.node.op, use.name) for use in planned.uses]
        assert reader.array().shape == planned.shape
    assert uses["embed"] == [("embed.", "embedding", "embed"), ("head.", "linear", "head")]
    assert source.reads.count("embed") == 1
    assert sorted(source.reads) == sorted(uses)


def test_another_dtype_or_scheme_is_another_weight(tiny: ModuleType) -> None:
    plan = tiny.make_plan(weight_dtype="bfloat16")
    graph = plan.model.embed.graph
    wide = {name: replace(weight, keep_f32=True) for name, weight in graph.weights.items()}
    model = replace(plan.model, embed=replace(plan.model.embed, graph=replace(graph, weights=wide)))
    embeddings = [w for w in plan_weights(replace(plan, model=model)) if w.weight.source.name == "embed"]
    assert [(w.dtype, len(w.uses)) for w in embeddings] == [("float32", 1), ("bfloat16", 1)]
    assert len(plan_weights(replace(plan, model=model))) == len(plan_weights(plan)) + 1


def test_progress_counts_what_is_read_in_any_form(tiny: ModuleType) -> None:
    plan, seen = tiny.make_plan(), []
    num_bytes = 0
    for index, (_, reader) in enumerate(WeightStream(plan, tiny.RandomWeights(plan.model), lambda *p: seen.append(p))):
        found = [reader.array()] if index % 2 else list(reader.pieces())
        num_bytes += sum(piece.nbytes for piece in found)
    assert seen[-1] == (num_bytes, num_bytes), "the source says 0 bytes; more were read"
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_a_source_of_contract_1_1_gives_each_weight_as_one_piece(tiny: ModuleType) -> None:
    plan = tiny.make_plan()
    source = tiny.RandomWeights(plan.model)
    assert not hasattr(source, "pieces")
    for planned, reader in WeightStream(plan, source, ignore):
        (piece,) = reader.pieces()
        np.testing.assert_array_equal(piece, source.read(planned.weight))


@pytest.mark.parametrize("integers", [False, True])
def test_a_matrix_is_rounded_unless_the_source_holds_integers(tiny: ModuleType, integers: bool) -> None:
    plan = tiny.make_plan(quantized(tiny.build_model(), "gate"))
    source, seen = InPieces(tiny.RandomWeights(plan.model), integers=integers), []
    (planned,) = [w for w in plan_weights(plan) if w.weight.scheme == "int8"]
    ((_, reader),) = WeightStream(plan, source, lambda *p: seen.append(p), weights=[planned])
    expected = quantize(source.read(planned.weight), WeightScheme.parse("int8"))
    np.testing.assert_array_equal(dequantize(reader.matrix()), dequantize(expected))
    assert seen[-1][0] == (expected.nbytes if integers else source.read(planned.weight).nbytes)
    (piece,) = WeightSource.pieces(source, planned.weight)
    assert isinstance(piece, QuantizedMatrix) is integers


def test_weights_come_in_the_order_that_is_asked_for(tiny: ModuleType) -> None:
    plan = tiny.make_plan()
    ordered = plan_weights(plan)[::-1]
    source = tiny.RandomWeights(plan.model)
    assert [planned for planned, _ in WeightStream(plan, source, ignore, weights=ordered)] == list(ordered)


def test_all_ranks_are_asked_of_the_source(tiny: ModuleType) -> None:
    plan, seen = tiny.make_plan(parallel=ParallelRank(world_size=2)), []
    source = InPieces(tiny.RandomWeights(plan.model))
    planned, reader = next(iter(WeightStream(plan, source, lambda *p: seen.append(p), all_ranks=True)))
    expected = source.read(planned.weight)
    for rank in range(2):
        np.testing.assert_array_equal(reader.array(rank), expected)
    assert [done for done, _ in seen] == [expected.nbytes, 2 * expected.nbytes]
    with pytest.raises(BackendError, match="this weight source has those of one rank only"):
        WeightStream(plan, tiny.RandomWeights(plan.model), ignore, all_ranks=True)


# ---- pieces by matrix -----------------------------------------------------------------------------------


def joined(groups: Iterator[list[WeightPiece]]) -> list[np.ndarray]:
    return [
        np.concatenate([piece if isinstance(piece, np.ndarray) else dequantize(piece) for piece in group])
        for group in groups
    ]


@pytest.mark.parametrize("cuts", [[12], [4, 8], [1, 2, 9], [3, 4, 5, 6, 7]])
def test_pieces_are_cut_where_a_matrix_ends(cuts: list[int]) -> None:
    rows = np.arange(36, dtype=np.float32).reshape(12, 3)
    found = joined(of_shape(3, 4, 3).matrices(np.split(rows, cuts)))
    np.testing.assert_array_equal(found, rows.reshape(3, 4, 3))
    ((*whole,),) = of_shape(12, 3).matrices(np.split(rows, cuts))
    assert all(np.shares_memory(piece, rows) for piece in whole if len(piece))


def test_experts_of_one_array_are_views_of_it() -> None:
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(0, 2, 1)
    groups = list(of_shape(2, 4, 3).matrices([array]))
    assert [len(group) for group in groups] == [1, 1]
    assert all(np.shares_memory(group[0], array) for group in groups)
    np.testing.assert_array_equal(joined(iter(groups)), array)


def test_integers_of_experts_are_cut_by_rows() -> None:
    matrix = quantize(np.random.default_rng(0).standard_normal((6, 32)).astype(np.float32), WeightScheme.parse("int8"))
    np.testing.assert_array_equal(joined(of_shape(2, 3, 32).matrices([matrix])), dequantize(matrix).reshape(2, 3, 32))


@pytest.mark.parametrize("rows", [7, 9, 4])
def test_pieces_of_other_rows_than_the_weight_are_refused(rows: int) -> None:
    with pytest.raises(ModelError, match=f"it has {rows} rows, expected 8"):
        list(of_shape(2, 4, 3).matrices([np.zeros((rows, 3), np.float32)]))
