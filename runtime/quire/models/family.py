"""What a model family is to the rest: names, a builder, and what its checkpoints carry beside weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from quire.graph.ir import ModelGraph
from quire.models.config_reader import ConfigReader


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


@dataclass(frozen=True, slots=True)
class Family:
    """A row of the table of architectures.

    Attributes:
        model_types: what `model_type` may say.
        build: reads the config and builds; raises ModelError for what it cannot honour.
        ignorable_tensors: fnmatch patterns of stored buffers that are no weights.
    """

    model_types: tuple[str, ...]
    build: Callable[[ConfigReader], BuiltModel]
    ignorable_tensors: tuple[str, ...] = ()
