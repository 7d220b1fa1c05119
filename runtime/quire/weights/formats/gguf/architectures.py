"""How files of each `general.architecture` are read, which the families say: `quire.models`, a layer above."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from quire.weights.formats.gguf.gguf_file import GgufFiles
from quire.weights.formats.gguf.hyperparameters import Hyperparameters
from quire.weights.formats.gguf.names import NameTable

Config = dict[str, Any]


@dataclass(frozen=True, slots=True)
class GgufArchitecture:
    """What a family says of its GGUF files.

    Attributes:
        config: (numbers under the architecture's prefix, files) -> what config.json would say, but for what all share.
        names: a config's `architectures`, of those that `config` may give -> the names of tensors.
    """

    config: Callable[[Hyperparameters, GgufFiles], Config]
    names: Mapping[str, NameTable]


_declared: dict[str, GgufArchitecture] = {}


def declare(architectures: Mapping[str, GgufArchitecture]) -> None:
    """Called once, by `quire.models.gguf_registry`, with the whole table."""
    _declared.update(architectures)


def architectures() -> Mapping[str, GgufArchitecture]:
    """`general.architecture` -> how its files are read. The first caller has the families declare theirs."""
    if not _declared:
        import_module("quire.models.gguf_registry")
    return _declared
