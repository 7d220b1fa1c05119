"""Kinds of caches: one file and one class for each `KVGroupSpec.kind`."""

from __future__ import annotations

from quire.kv.kinds.cross import CrossGroup
from quire.kv.kinds.full import FullGroup
from quire.kv.kinds.group import KVGroup, TableLimits
from quire.kv.kinds.latent import LatentGroup
from quire.kv.kinds.sliding import SlidingGroup
from quire.kv.kinds.state import StateGroup

__all__ = [
    "CrossGroup",
    "FullGroup",
    "KVGroup",
    "LatentGroup",
    "SlidingGroup",
    "StateGroup",
    "TableLimits",
]
