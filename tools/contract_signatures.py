"""Writes down the device contract: every public name of `quire.device`, with fields, methods and signatures.

    python tools/contract_signatures.py            prints it
    python tools/contract_signatures.py --write    writes tests/device/contract_v1.golden; refused without a new version

A change of this text is a change of the contract: it needs a new `CONTRACT_VERSION` (the minor number for additions
that old plugins need not know, the major number otherwise), this file, and the backend author's guide.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import quire.device
from quire.device import hookspecs
from quire.graph.op_spec import REQUIRED
from quire.graph.ops import OPS

GOLDEN = Path(__file__).parents[1] / "tests" / "device" / f"contract_v{quire.device.CONTRACT_VERSION[0]}.golden"


def contract_lines() -> Iterator[str]:
    """The contract as text, one line for each name or member, sorted."""
    yield f"contract {'.'.join(map(str, quire.device.CONTRACT_VERSION))}"
    yield ""
    for name in sorted(quire.device.__all__):
        yield from _lines(name, getattr(quire.device, name))
    yield ""
    for name, hook in sorted(vars(hookspecs).items()):
        if name.startswith("quire_"):
            yield f"hook {name}{inspect.signature(hook)}"
    yield ""
    for name, spec in sorted(OPS.items()):
        attrs = ", ".join(key if value is REQUIRED else f"{key}={value!r}" for key, value in spec.attrs.items())
        operands = ", ".join((*spec.inputs, *spec.weights))
        yield f"op {name}({operands}; {attrs}) -> {', '.join(spec.outputs) or 'by attributes'}"


def _lines(name: str, value: Any) -> Iterator[str]:
    if inspect.isclass(value):
        bases = ", ".join(base.__name__ for base in value.__bases__ if base is not object)
        yield f"class {name}" + (f"({bases})" if bases else "")
        yield from sorted(f"    {line}" for line in _members(value))
    elif inspect.isfunction(value):
        yield f"def {name}{inspect.signature(value)}"
    elif isinstance(value, dict):
        yield f"{name}: {', '.join(value)}"
    elif isinstance(value, (str, tuple)):
        yield f"{name} = {value!r}"
    else:
        yield f"{name}: {type(value).__name__ if inspect.ismodule(type(value)) else _alias(value)}"


def _members(kind: type) -> Iterator[str]:
    fields = {field.name for field in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else set()
    if fields:
        for field in dataclasses.fields(kind):  # type: ignore[arg-type]
            has_default = (field.default, field.default_factory) != (dataclasses.MISSING,) * 2
            shown = field.default if field.default is not dataclasses.MISSING else "..."
            if isinstance(shown, frozenset):
                shown = f"frozenset({sorted(shown)})"
            yield f"{field.name}: {field.type}" + (f" = {shown}" if has_default else "")
    for name, annotation in vars(kind).get("__annotations__", {}).items():
        if name not in fields and not name.startswith("_"):
            yield f"{name}: {annotation}"
    for name, member in vars(kind).items():
        made_by_hand = name == "__init__" and not fields and not getattr(kind, "_is_protocol", False)
        if name.startswith("_") and not made_by_hand:
            continue
        if isinstance(member, property):
            yield f"property {name}"
        elif isinstance(member, (classmethod, staticmethod)):
            yield f"{type(member).__name__} {name}{inspect.signature(member.__func__)}"
        elif inspect.isfunction(member):
            yield f"def {name}{inspect.signature(member)}"


def _alias(value: Any) -> str:
    text = str(value)
    return type(value).__name__ if " at 0x" in text else text


def write(golden: Path) -> None:
    """Writes the contract down. Raises SystemExit when other signatures stand there under the same version."""
    now, written = list(contract_lines()), golden.read_text().splitlines() if golden.exists() else []
    if written and written != now and written[0] == now[0]:
        raise SystemExit(
            f"the signatures changed, but it is still {now[0]}: raise CONTRACT_VERSION first"
            " (quire.device.capabilities), and say so in docs/backend-guide.md"
        )
    golden.write_text("\n".join(now) + "\n")


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        write(GOLDEN)
    elif sys.argv[1:]:
        raise SystemExit("usage: python tools/contract_signatures.py [--write]")
    else:
        sys.stdout.write("\n".join(contract_lines()) + "\n")
