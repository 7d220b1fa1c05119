"""The op set as graphs and their passes see it. `quire.ops`, which declares the ops, stands above and fills it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module

from quire.graph.op_spec import OpSpec

_specs: dict[str, OpSpec] = {}


def declare(specs: Iterable[OpSpec]) -> None:
    """Called once, by `quire.ops`, with the whole set."""
    _specs.update({spec.name: spec for spec in specs})


class _OpTable(Mapping[str, OpSpec]):
    """Reads `_specs`; the first reader has the ops declared, so that no caller must remember to import them."""

    def __getitem__(self, op: str) -> OpSpec:
        return _declared()[op]

    def __iter__(self) -> Iterator[str]:
        return iter(_declared())

    def __len__(self) -> int:
        return len(_declared())


def _declared() -> dict[str, OpSpec]:
    if not _specs:
        import_module("quire.ops")
    return _specs


OPS: Mapping[str, OpSpec] = _OpTable()
"""Every op by name."""
