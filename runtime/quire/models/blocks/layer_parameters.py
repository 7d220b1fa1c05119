"""What a layer is traced with: its weights, and what it declares for the whole model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from quire.graph.ir import AxisPolicy, CacheArray, Value
from quire.graph.shapes import Dim, DimLike, T, shape_of
from quire.graph.trace import Tracer
from quire.models.blocks.declarations import CacheDeclaration, Declarations, LayerCache
from quire.models.blocks.parameters import Parameters


class LayerParameters(Parameters):
    """Weights, axes, caches and positions of one layer.

    Args:
        index: the layer's number. hidden_size: width of what goes from layer to layer.
        declarations: those of the model.
    """

    def __init__(
        self, tracer: Tracer, prefixes: tuple[str, ...], index: int, hidden_size: int, declarations: Declarations
    ) -> None:
        super().__init__(tracer, prefixes)
        self.index, self.hidden_size = index, hidden_size
        self._declarations = declarations
        self._positions: Value | None = None
        self._caches: dict[LayerCache, Value] = {}

    @property
    def positions(self) -> Value:
        """i32 [T], the tokens' positions; an input of the layer where it is asked for."""
        if self._positions is None:
            self._positions = self.tracer.input("positions", (T,), "i32")
        return self._positions

    def axis(self, name: str, size: int, policy: AxisPolicy = "split") -> Dim:
        """The symbol of an axis; layers that give one name two sizes get two symbols."""
        return self._declarations.axis(name, size, policy)

    def kv_cache(self, *, window: int, arrays: Mapping[str, tuple[DimLike, ...]]) -> LayerCache:
        """A cache of this layer's own for every token, or for those inside a window.

        Args:
            window: tokens that a query sees, itself included; 0 = all.
            arrays: name -> shape per token.
        """
        return self._declarations.cache(
            "kv", CacheDeclaration("sliding" if window else "full", _held(arrays, "kv"), window)
        )

    def latent_cache(self, *, arrays: Mapping[str, tuple[DimLike, ...]]) -> LayerCache:
        """A cache of this layer's own for every token, of what keys and values are made from; arrays as in kv_cache."""
        return self._declarations.cache("latent", CacheDeclaration("latent", _held(arrays, "kv")))

    def state_cache(self, *, arrays: Mapping[str, tuple[DimLike, ...]], checkpoint_every: int = 0) -> LayerCache:
        """A float32 state of this layer's own, one for a sequence.

        Args:
            arrays: name -> shape per sequence.
            checkpoint_every: blocks of tokens after which it is kept for the prefix cache, 0 = never.
        """
        declaration = CacheDeclaration("state", _held(arrays, "f32"), checkpoint_every=checkpoint_every)
        return self._declarations.cache("state", declaration)

    def cross_cache(self, *, arrays: Mapping[str, tuple[DimLike, ...]]) -> LayerCache:
        """A cache of this layer's own for an encoder's tokens, written once; arrays as in kv_cache."""
        return self._declarations.cache("cross", CacheDeclaration("cross", _held(arrays, "kv")))

    def bind(self, cache: LayerCache) -> Value:
        """A cache, this layer's own or another's, as an input of this layer."""
        if cache not in self._caches:
            self._caches[cache] = self.tracer.cache(cache.name, cache.ref)
        return self._caches[cache]


def _held(arrays: Mapping[str, tuple[DimLike, ...]], dtype: Literal["kv", "f32"]) -> tuple[CacheArray, ...]:
    return tuple(CacheArray(name, shape_of(*shape), dtype) for name, shape in arrays.items())


Mixer = Callable[[LayerParameters, Value], Value]
"""mixer(parameters, x [T, D]) -> [T, D]: attention, a feed-forward block, or a whole layer."""


def by_layer(mixers: Sequence[Mixer]) -> Mixer:
    """Layer `i` uses `mixers[i]`."""
    return lambda parameters, x: mixers[parameters.index](parameters, x)
