"""Weights of a part, declared by the names they have in the checkpoint."""

from __future__ import annotations

from typing import Any

from quire.graph.ir import OneOf, Source, Src, Value, ValueDtype, Weight
from quire.graph.shapes import DimLike, shape_of
from quire.graph.trace import Tracer

View = tuple[tuple[Any, ...], ...]


class Parameters:
    """Declares weights of one part; a checkpoint may spell the part's prefix in more than one way.

    Args:
        tracer: records the part.
        prefixes: spellings of the part's prefix in checkpoints, the preferred one first.
    """

    def __init__(self, tracer: Tracer, prefixes: tuple[str, ...]) -> None:
        self.tracer, self.prefixes = tracer, prefixes

    def source(self, name: str, shape: tuple[DimLike, ...], view: View = ()) -> Source:
        """A checkpoint tensor under the part's prefix, as `shape` after `view`."""
        options = tuple(Src(prefix + name, shape_of(*shape), view) for prefix in self.prefixes)
        return options[0] if len(options) == 1 else OneOf(options)

    def weight(self, name: str, shape: tuple[DimLike, ...], *, stored: str = "", view: View = ()) -> Weight:
        """A weight called `name` in the part, read from `stored` (the same name when empty) through `view`."""
        return self.tracer.weight(name, shape, self.source(stored or name, shape, view))

    def from_source(self, name: str, shape: tuple[DimLike, ...], source: Source) -> Weight:
        """A weight with a source expression of its own."""
        return self.tracer.weight(name, shape, source)

    def linear(
        self, x: Value, name: str, out_features: DimLike, *, bias: bool = False, out_dtype: ValueDtype = "act"
    ) -> Value:
        """x [T, in] through `name.weight` [out, in] and, with `bias`, `name.bias` [out]."""
        matrix = self.weight(f"{name}.weight", (out_features, x.shape[-1]))
        vector = self.weight(f"{name}.bias", (out_features,)) if bias else None
        return self.tracer.linear(x, matrix, vector, out_dtype=out_dtype)
