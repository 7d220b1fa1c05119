"""Loading: what is read, in which forms it is held, and that layouts of a checkpoint make no difference."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from quire.errors import ModelError
from quire.graph.ir import Cat, ModelGraph, OneOf, Src, Stack, Value, Weight
from quire.graph.shapes import Dim, shape_of
from quire.weights.expressions import RankCut, resolve, row_parts
from tests.backends.cpu.devices import OneNode, cpu_driver, cpu_plan, executor_of, one_node_logits, one_node_model
from tests.device.conftest import Driver, Line, RandomWeights, build_model

STEPS = ([(0, 5)],)


class StoredAs:
    """Weights of another source, in another dtype or memory layout."""

    def __init__(self, model: ModelGraph, change: object) -> None:
        self._weights, self._change = RandomWeights(model), change
        self.total_bytes = 1000
        self.reads = self._weights.reads

    def read(self, weight: Weight) -> np.ndarray:
        assert callable(self._change)
        return self._change(self._weights.read(weight))


def logits_of(change: object, weight_dtype: str = "float32") -> np.ndarray:
    plan = cpu_plan(weight_dtype=weight_dtype)
    driver = Driver(executor_of("cpu", plan, StoredAs(plan.model, change)))
    line = Line([5, 6, 7], {"full": [0], "sliding": [1]})
    driver.step([(line, 3)])
    return driver.logits_of(line)


def reversed_columns(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array[..., ::-1])[..., ::-1]


def unaligned(array: np.ndarray) -> np.ndarray:
    raw = np.empty(array.nbytes + 1, np.uint8)
    view = raw[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


def read_only(array: np.ndarray) -> np.ndarray:
    array.setflags(write=False)
    return array


@pytest.mark.parametrize("layout", [np.asfortranarray, reversed_columns, unaligned, read_only])
def test_memory_layout_of_the_source_does_not_matter(layout: object) -> None:
    np.testing.assert_array_equal(logits_of(layout), logits_of(lambda array: array))


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16])
def test_16_bit_checkpoints_are_exact_in_float32(dtype: type) -> None:
    stored = logits_of(lambda array: array.astype(dtype))
    widened = logits_of(lambda array: array.astype(dtype).astype(np.float32))
    np.testing.assert_array_equal(stored, widened)


@pytest.mark.parametrize(("held", "dtype"), [("bfloat16", ml_dtypes.bfloat16), ("float16", np.float16)])
def test_float32_checkpoints_are_rounded_to_the_plans_dtype(held: str, dtype: type) -> None:
    rounded = logits_of(lambda array: array.astype(dtype), held)
    np.testing.assert_array_equal(logits_of(lambda array: array, held), rounded)


def test_wider_checkpoints_are_converted() -> None:
    np.testing.assert_array_equal(logits_of(lambda array: array.astype(np.float64)), logits_of(lambda array: array))


def test_a_tied_embedding_is_read_and_held_once() -> None:
    plan = cpu_plan()
    weights = RandomWeights(plan.model)
    executor = executor_of("cpu", plan, weights)
    assert weights.reads.count("embed") == 1
    assert len(weights.reads) == len(set(weights.reads))
    executor.close()


def test_bytes_are_reported_by_purpose_and_progress_reaches_the_total() -> None:
    from quire.device.registry import resolve_device

    plan = cpu_plan()
    executor, seen = resolve_device("cpu").create_executor(plan), []
    source = StoredAs(plan.model, lambda array: array)
    source.total_bytes = sum(
        RandomWeights(plan.model).read(weight).nbytes
        for weight in {w.source: w for part in plan.model.parts() for w in part.graph.weights.values()}.values()
    )
    report = executor.load(source, lambda done, total: seen.append((done, total)))
    assert seen[-1] == (source.total_bytes, source.total_bytes)
    assert seen == sorted(seen)
    assert set(report.bytes_by_purpose) == {"weights", "activations", "tables"}
    assert min(report.bytes_by_purpose.values()) > 0
    assert report.bytes_by_purpose["weights"] < 3 * source.total_bytes  # tiny matrices: panels are padded
    assert ("linear", "cpu") in report.placement


def test_a_tensor_of_another_size_is_an_error() -> None:
    with pytest.raises(ModelError, match="does not fit"):
        logits_of(lambda array: array[:-1] if array.ndim == 2 else array)


# ---- source expressions ---------------------------------------------------------------------------------


def _joined(n: OneNode, x: Value) -> Value:
    parts = tuple(Src(f"part{i}", shape_of(rows, 48)) for i, rows in enumerate((5, 20, 7)))
    absent = Src("absent", shape_of(32, 48))
    return n.t.linear(x, n.t.weight("w", shape_of(32, 48), OneOf((absent, Cat(parts)))))


def _stacked(n: OneNode, x: Value) -> Value:
    def expert(e: int) -> Cat:
        return Cat((Src(f"w1.{e}", shape_of(20, 48)), Src(f"w3.{e}", shape_of(20, 48))))

    w13 = n.t.weight("w13", shape_of(4, 40, 48), Stack(tuple(expert(e) for e in range(4)), "experts"))
    down = tuple(Src(f"w2.{e}", shape_of(48, 20)) for e in range(4))
    w2 = n.t.weight("w2", shape_of(4, 48, 20), Stack(down, "experts"))
    router = n.t.linear(x, n.weight("router", 4, 48), out_dtype="f32")
    ids, weights = n.t.route_experts(router, k=2)
    return n.t.experts(x, ids, weights, w13, w2, act="silu")


class Named:
    """Tensors by name, of which "absent" is not there."""

    def __contains__(self, name: object) -> bool:
        return name != "absent"

    def dtype(self, name: str) -> np.dtype[Any]:
        return np.dtype(np.float32)

    def array(self, source: Src) -> np.ndarray:
        shape = tuple(dim.evaluate({"vocab": 64}) for dim in source.shape)
        return np.random.default_rng(sum(map(ord, source.name))).standard_normal(shape).astype(np.float32)


class Expressions:
    """A WeightSource over those tensors, which gives pieces of weights, or joined copies of them, not both."""

    total_bytes = 0

    def __init__(self, model: ModelGraph, *, in_pieces: bool) -> None:
        self._in_pieces, self._cut = in_pieces, RankCut(model.axes)

    def read(self, weight: Weight) -> np.ndarray:
        assert not self._in_pieces, "a joined copy was asked for"
        return resolve(weight.source, Named(), self._cut)

    def pieces(self, weight: Weight) -> Iterator[np.ndarray]:
        assert self._in_pieces
        for part in row_parts(weight.source, Named(), self._cut):
            assert isinstance(part, Src)
            yield resolve(part, Named(), self._cut)


@pytest.mark.parametrize("body", [_joined, _stacked])
def test_joined_weights_are_read_part_by_part(body: object, monkeypatch: pytest.MonkeyPatch) -> None:
    model = one_node_model(body, 48)  # type: ignore[arg-type]
    model = replace(model, axes={**model.axes, "experts": replace(model.axes["vocab"], size=4)})
    monkeypatch.setattr("tests.backends.cpu.devices.NormalWeights", lambda model: Expressions(model, in_pieces=True))
    found = one_node_logits("cpu", model, STEPS)
    monkeypatch.setattr("tests.backends.cpu.devices.NormalWeights", lambda model: Expressions(model, in_pieces=False))
    expected = one_node_logits("reference", model, STEPS)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)


def test_a_model_graph_is_not_changed_by_loading() -> None:
    model = build_model()
    before = [part.signature() for part in model.parts()]
    cpu_driver(model=model)
    assert [part.signature() for part in model.parts()] == before
    assert all(isinstance(dim, Dim) for part in model.parts() for value in part.graph.values for dim in value.shape)
