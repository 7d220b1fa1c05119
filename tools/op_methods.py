"""Writes the tracer's typed methods, one for each op that `quire.ops` declares.

python tools/op_methods.py            prints them
python tools/op_methods.py --write    writes runtime/quire/graph/op_methods.py
"""

from __future__ import annotations

import inspect
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

from quire.graph.op_spec import REQUIRED, OpSpec
from quire.ops import DECLARED, Op

METHODS = Path(__file__).parents[1] / "runtime" / "quire" / "graph" / "op_methods.py"

_HEAD = '''"""A method for each op, as model files call them. Written by tools/op_methods.py from `quire.ops`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from quire.graph.ir import Value, ValueDtype, Weight
from quire.graph.rope import RopeSpec
from quire.graph.shapes import Dim, Shape


class OpMethods(ABC):
    """The ops by name. Values are inputs, weights are weights (None = an absent one), keywords are attributes.

    Raises, each of them: ModelError where shapes do not fit each other.
    """

    @abstractmethod
    def _add_node(
        self, op: str, operands: tuple[Value | Weight | None, ...], attrs: Mapping[str, Any]
    ) -> tuple[Value, ...]:
        """Adds one node and gives its results."""
'''


def methods_text() -> str:
    """The whole module, laid out by the formatter."""
    source = _HEAD + "".join("\n" + textwrap.indent(_method(op), "    ") for op in DECLARED.values())
    command = [sys.executable, "-m", "ruff", "format", "--stdin-filename", str(METHODS), "-"]
    return subprocess.run(command, input=source, capture_output=True, text=True, check=True).stdout


def _method(op: Op) -> str:
    spec = op.spec
    parameters = ["self", *_operands(spec)]
    if spec.attrs:
        parameters += ["*", *(_attribute(spec, name) for name in spec.attrs)]
    names = [name.rstrip("?") for name in (*spec.inputs, *spec.weights)]
    operands = f"({names[0]},)" if len(names) == 1 else f"({', '.join(names)})"
    attrs = ", ".join(f'"{name}": {name}' for name in spec.attrs)
    call = f'self._add_node("{spec.name}", {operands}, {{{attrs}}})'
    results = [f"{name}_result" for name in spec.outputs]  # names that no operand has
    summary = inspect.cleandoc(op.reference.__doc__ or "").split("\n\n")[0]
    lines = [
        f"def {spec.name}({', '.join(parameters)}) -> {_result_type(spec)}:",
        f'"""{summary}',
        "",
        f"Shapes, dtypes, rounding and source: `quire.ops.{spec.name}`.",
        '"""',
        *([f"{', '.join(results)}{',' if len(results) == 1 else ''} = {call}"] if results else []),
        f"return {', '.join(results) or call}",
    ]
    return lines[0] + "\n" + textwrap.indent("\n".join(lines[1:]), "    ") + "\n"


def _operands(spec: OpSpec) -> Iterator[str]:
    for names, kind in ((spec.inputs, "Value"), (spec.weights, "Weight")):
        for name in names:
            yield f"{name[:-1]}: {kind} | None = None" if name.endswith("?") else f"{name}: {kind}"


def _attribute(spec: OpSpec, name: str) -> str:
    default = spec.attrs[name]
    kind = spec.attr_types.get(name)
    if default is REQUIRED:
        if kind is None:
            raise SystemExit(f"op {spec.name}: attribute {name} has no default and no attr_types")
        return f"{name}: {kind}"
    shown = f'"{default}"' if isinstance(default, str) else repr(default)
    return f"{name}: {kind or type(default).__name__} = {shown}"


def _result_type(spec: OpSpec) -> str:
    if not spec.outputs:
        return "tuple[Value, ...]"
    return "Value" if len(spec.outputs) == 1 else f"tuple[{', '.join(['Value'] * len(spec.outputs))}]"


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        METHODS.write_text(methods_text())
    elif sys.argv[1:]:
        raise SystemExit("usage: python tools/op_methods.py [--write]")
    else:
        sys.stdout.write(methods_text())
