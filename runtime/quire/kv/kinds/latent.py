"""Latent caches: every token stays, as what its keys and values are made from."""

from __future__ import annotations

from quire.kv.kinds.full import FullGroup


class LatentGroup(FullGroup):
    """The blocks of a full group; what they hold is a matter of the group's arrays."""
