"""A family's answer to a config: the graph, and what the engine must know beside it."""

from __future__ import annotations

from dataclasses import dataclass

from quire.graph.ir import ModelGraph


@dataclass(frozen=True, slots=True)
class BuiltModel:
    """A family's answer to one config.

    Attributes:
        max_model_len: longest sequence its positions cover.
        ignorable_tensors: fnmatch patterns of tensors this config makes superfluous.
        notes: what of the checkpoint is left out, for the log.
    """

    graph: ModelGraph
    max_model_len: int
    ignorable_tensors: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
