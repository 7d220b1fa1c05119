"""What a model's layers declare while they are traced: named axes, and caches. Equal declarations are one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

from quire.graph.ir import Axis, AxisPolicy, CacheArray, CacheKind, CacheRef, KVGroupSpec
from quire.graph.shapes import Dim


@dataclass(frozen=True, slots=True)
class LayerCache:
    """A cache that a layer declared; another layer that is given it reads the same one.

    Attributes:
        name: the local name of the cache in the parts that use it.
        ref: the group and the layer slot.
    """

    name: str
    ref: CacheRef


@dataclass(frozen=True, slots=True)
class CacheDeclaration:
    """What makes two caches the same kind of thing; the attributes are those of `KVGroupSpec`."""

    kind: CacheKind
    arrays: tuple[CacheArray, ...]
    window: int = 0
    checkpoint_every: int = 0


class Declarations:
    """The axes and cache groups of one model.

    A name belongs to what was declared under it first. What differs gets a name of its own, with a number: "heads",
    "heads_2"; "sliding", "sliding_2".
    """

    def __init__(self) -> None:
        self.axes: dict[str, Axis] = {}
        self._groups: dict[str, CacheDeclaration] = {}
        self._layers: dict[str, int] = {}

    def axis(self, name: str, size: int, policy: AxisPolicy = "split") -> Dim:
        """The symbol of an axis of this size and policy."""
        axis = Axis(size, policy)
        return Dim.of(next(found for found in _numbered(name) if self.axes.setdefault(found, axis) == axis))

    def cache(self, name: str, declaration: CacheDeclaration) -> LayerCache:
        """A layer slot of its own in the group of all equal declarations, called `name` in the layer."""
        groups = self._groups
        kind = declaration.kind
        group = next(found for found in _numbered(kind) if groups.setdefault(found, declaration) == declaration)
        slot = self._layers.get(group, 0)
        self._layers[group] = slot + 1
        return LayerCache(name, CacheRef(group, slot))

    def kv_groups(self) -> dict[str, KVGroupSpec]:
        """The groups, in the order of their first layers. Those whose blocks are equal in bytes share a pool."""
        pools = self._pools()
        return {
            name: KVGroupSpec(
                found.kind, found.window, found.arrays, self._layers[name], pools[name], found.checkpoint_every
            )
            for name, found in self._groups.items()
        }

    def _pools(self) -> dict[str, str]:
        """Group -> pool: "kv" where one is enough, else called by the first of its groups."""
        first: dict[tuple[bool, tuple[CacheArray, ...], int], str] = {}
        pools = {
            name: first.setdefault((found.kind == "state", found.arrays, self._layers[name]), name)
            for name, found in self._groups.items()
        }
        return dict.fromkeys(pools, "kv") if len(set(pools.values())) == 1 else pools


def _numbered(name: str) -> Iterator[str]:
    """name, name_2, name_3 ..."""
    yield name
    yield from (f"{name}_{number}" for number in count(2))
