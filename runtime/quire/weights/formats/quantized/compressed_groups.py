"""config_groups of a compressed-tensors checkpoint: which layers are quantized, and how."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quire.errors import ModelError
from quire.weights.formats.quantized.quantized_safetensors import StoredModule

FORMATS = ("pack-quantized", "int-quantized", "naive-quantized")
STRATEGIES = ("tensor", "channel", "group")


@dataclass(frozen=True, slots=True)
class CompressedGroup:
    """One of config_groups.

    Attributes:
        targets: names of modules, "re:" and a pattern their names begin with, or names of classes ("Linear").
        strategy: what shares a scale: the tensor, a channel (an output), or a group of `group_size` inputs of one.
        static_activations: activations were rounded with scales fixed by calibration.
    """

    name: str
    targets: tuple[str, ...]
    bits: int
    symmetric: bool
    strategy: str
    group_size: int
    static_activations: bool


def read_groups(folder: Path, config: Mapping[str, Any]) -> list[CompressedGroup]:
    """The groups of a quantization_config. Raises ModelError naming what is not read."""
    sparsity = config.get("sparsity_config") or {}
    if sparsity.get("format", "dense") != "dense":
        raise _refused(folder, f"the sparse format {sparsity['format']!r}", "weights are read from dense formats")
    if (config.get("transform_config") or {}).get("config_groups"):
        raise _refused(folder, "transform_config", "the model would have to rotate its activations while it runs")
    groups = config.get("config_groups")
    if not isinstance(groups, Mapping) or not groups:
        raise _refused(folder, "no config_groups", "they say how the layers are quantized")
    return [_group(folder, name, group, config.get("format")) for name, group in groups.items()]


def group_of_module(module: StoredModule, groups: Sequence[CompressedGroup]) -> CompressedGroup:
    """The group of a layer: one that names it, else one whose pattern fits, else one of a class. Raises ModelError."""

    def fit(group: CompressedGroup) -> int:
        named = [target for target in group.targets if target == module.name]
        patterns = [
            target for target in group.targets if target.startswith("re:") and re.match(target[3:], module.name)
        ]
        classes = [target for target in group.targets if target[:1].isupper()]
        return 3 if named else 2 if patterns else 1 if classes else 0

    best = max(groups, key=fit)
    fitting = [group for group in groups if fit(group) == fit(best)]
    ways = {(group.bits, group.symmetric, group.strategy, group.group_size) for group in fitting}
    if not fit(best) or len(ways) > 1:
        kind = "it in several ways" if fit(best) else "no such layer"
        raise module.wrong(f"config_groups ({', '.join(group.name for group in fitting)}) target {kind}")
    return best


def _group(folder: Path, name: str, group: Any, global_format: Any) -> CompressedGroup:
    where = f"config_groups.{name}"
    if not isinstance(group, Mapping) or not isinstance(group.get("targets"), list | tuple):
        raise _refused(folder, f"{where}={group!r}", "it is an object with targets and weights")
    stored_format = group.get("format") or global_format
    weights = group.get("weights")
    if stored_format not in FORMATS or not isinstance(weights, Mapping):
        raise _refused(
            folder,
            f"format {stored_format!r}" if weights else f"{where} without weights",
            f"the formats read are {', '.join(FORMATS)}",
        )
    if weights.get("type", "int") != "int" or weights.get("num_bits", 8) not in (4, 8):
        raise _refused(
            folder,
            f"weights of {weights.get('num_bits', 8)} bits of type {weights.get('type', 'int')!r}",
            "integers of 4 and 8 bits are read",
        )
    strategy, group_size = _strategy(weights)
    if strategy not in STRATEGIES or (strategy == "group" and group_size < 1):
        raise _refused(
            folder,
            f"strategy {strategy!r} with group_size {group_size}",
            f"the strategies read are {', '.join(STRATEGIES)}",
        )
    activations = [group.get(kind) for kind in ("input_activations", "output_activations")]
    static = any(isinstance(kind, Mapping) and kind.get("dynamic") is False for kind in activations)
    return CompressedGroup(
        name,
        tuple(group["targets"]),
        weights.get("num_bits", 8),
        weights.get("symmetric", True) is not False,
        strategy,
        group_size,
        static,
    )


def _strategy(weights: Mapping[str, Any]) -> tuple[str, int]:
    group_size = weights.get("group_size")
    size = group_size if type(group_size) is int else 0
    implied = "tensor" if group_size is None else "group" if size > 0 else "channel"
    return str(weights.get("strategy") or implied), size


def _refused(folder: Path, what: str, because: str) -> ModelError:
    return ModelError(
        f"{folder}: compressed-tensors with {what} is not supported",
        because=because,
        hint="another quantization of the model, or the original weights with --quantization",
    )
