"""Running a part by names."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest

from quire.errors import InternalError
from quire.graph.interpret import PartRunner
from quire.graph.ir import Part, Src
from quire.graph.shapes import shape_of
from quire.graph.trace import Tracer


def _part() -> Part:
    """out = split(linear(x, w, no bias))[1] + x, with the other half as a second output."""
    t = Tracer()
    x = t.input("x", ("T", 2))
    w = t.weight("w", (4, 2), Src("w", shape_of(4, 2)))
    left, right = t.split(t.linear(x, w), sizes=(shape_of(2)[0], shape_of(2)[0]))
    t.output("sum", t.add(right, x))
    t.output("left", left)
    return t.part("p.")


def _linear(context: Any, inputs: tuple[Any, ...], weights: tuple[Any, ...]) -> tuple[Any, ...]:
    assert context == "step"
    (x,), (w, bias) = inputs, weights
    assert bias is None
    return ([w * x, w * x + 1],)


def _split(_: Any, inputs: tuple[Any, ...], weights: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(inputs[0])


def _add(_: Any, inputs: tuple[Any, ...], weights: tuple[Any, ...]) -> tuple[Any, ...]:
    return (inputs[0] + inputs[1],)


def test_outputs_by_name() -> None:
    runner = PartRunner(_part(), [_linear, _split, _add], {"w": 10})
    assert runner({"x": 3, "unrelated": None}, "step") == {"sum": 34, "left": 30}
    assert runner({"x": 4}, "step") == {"sum": 45, "left": 40}


def test_one_output_may_be_a_tuple_itself() -> None:
    """A cache can be a tuple: results are counted by the node, never unpacked by type."""
    t = Tracer()
    t.output("y", t.add(t.input("a", ("T",)), t.input("b", ("T",))))
    runner = PartRunner(t.part("p."), [lambda c, i, w: ((i[0], i[1]),)], {})
    assert runner({"a": 1, "b": 2}, None) == {"y": (1, 2)}


def test_a_missing_input_is_named() -> None:
    with pytest.raises(InternalError, match=r"part p\. needs 'x'\n  because: the environment has y"):
        PartRunner(_part(), [_linear, _split, _add], {"w": 1})({"y": 3}, "step")


def test_a_kernel_with_the_wrong_number_of_results_is_named() -> None:
    runner = PartRunner(_part(), [_linear, _add, _add], {"w": 1})
    with pytest.raises(IndexError):
        runner({"x": 3}, "step")
    runner = PartRunner(_part(), [_linear, lambda c, i, w: (1,), _add], {"w": 1})
    with pytest.raises(InternalError, match="2 results are declared, the kernel returned 1") as caught:
        runner({"x": 3}, "step")
    assert caught.value.__notes__ == [f"part {runner.part.prefix}, node 1 (split)"]


def test_what_a_kernel_raises_carries_its_place() -> None:
    def broken(context: object, inputs: object, weights: object) -> tuple[object, ...]:
        raise ValueError("no such row")

    with pytest.raises(ValueError, match="no such row") as caught:
        PartRunner(_part(), [_linear, broken, _add], {"w": 1})({"x": 3}, "step")
    assert caught.value.__notes__[0].endswith("node 1 (split)")


def test_as_many_kernels_as_nodes() -> None:
    with pytest.raises(InternalError, match="3 nodes, 1 kernels"):
        PartRunner(_part(), [_linear], {"w": 1})


def test_a_value_is_dropped_after_its_last_use() -> None:
    class Array:
        pass

    t = Tracer()
    y = t.activation(t.input("x", ("T",)), act="relu")
    t.output("z", t.activation(t.activation(y, act="relu"), act="relu"))
    alive: list[weakref.ref[Array]] = []

    def kernel(_: Any, inputs: tuple[Any, ...], weights: tuple[Any, ...]) -> tuple[Any, ...]:
        gc.collect()
        counts.append(sum(ref() is not None for ref in alive))
        array = Array()
        alive.append(weakref.ref(array))
        return (array,)

    counts: list[int] = []
    PartRunner(t.part("p."), [kernel] * 3, {})({"x": None}, None)
    assert counts == [0, 1, 1]
