"""The tracer's typed methods: written from the declarations, and current."""

from __future__ import annotations

import inspect

import pytest

from quire.graph.op_methods import OpMethods
from quire.graph.shapes import T
from quire.graph.trace import Tracer
from quire.ops import DECLARED
from tests.scripts import load_script


def test_the_methods_are_those_of_the_declarations() -> None:
    script = load_script("tools/op_methods.py")
    assert script.METHODS.read_text() == script.methods_text(), "run python tools/op_methods.py --write"


@pytest.mark.parametrize("op", sorted(DECLARED))
def test_every_op_is_a_method_with_a_signature_and_a_docstring(op: str) -> None:
    method, spec = getattr(OpMethods, op), DECLARED[op].spec
    names = [*spec.inputs, *spec.weights, *spec.attrs]
    assert list(inspect.signature(method).parameters) == ["self", *(name.rstrip("?") for name in names)]
    assert f"quire.ops.{op}" in method.__doc__


def test_no_op_takes_the_name_of_a_method_of_the_tracer() -> None:
    assert not set(DECLARED) & set(vars(Tracer))


def test_an_op_that_does_not_exist_is_no_method() -> None:
    t = Tracer()
    with pytest.raises(AttributeError, match="teleport"):
        t.teleport(t.input("x", (T, 8)))  # type: ignore[attr-defined]
