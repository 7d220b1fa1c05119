"""Names of tensors: what GGUF calls them -> what transformers does, and what was changed on the way into the file.

Source: the GGUF specification's standardized names and the tables of the `gguf` package.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_BLOCK = re.compile(r"blk\.(?P<layer>\d+)\.(?P<name>[a-z_]+)(?:\.(?P<expert>\d+))?\.(?P<kind>weight|bias)")
_OTHER = re.compile(r"(?P<name>[a-z_]+)\.(?P<kind>weight|bias)")

IGNORED = re.compile(r"rope_freqs\.weight|rope_factors_(long|short)\.weight|blk\.\d+\.attn_rot_embd\.weight")
"""Tensors that are no weights: rotary factors, which the configuration takes up, and stored rotary tables."""


@dataclass(frozen=True, slots=True)
class NameTable:
    """One architecture's names.

    Attributes:
        layers: prefix of layer `i` in transformers, with {} for i.
        whole: GGUF name without ".weight" or ".bias" -> name in transformers without it.
        block: the same inside a layer ("blk.0." and `layers`).
        experts: name of a tensor with all experts -> name of one expert's, with {} for its number.
        permuted: block names whose rows were reordered for rotary in pairs of neighbours, and the number of heads'
            place in the configuration.
        interleaved: block names of q, k and v that are stored one after the other and published per head.
        transposed: block names that are published [in, out].
        norm_offset: what was added to the weights of norms.
    """

    layers: str
    whole: Mapping[str, str]
    block: Mapping[str, str]
    experts: Mapping[str, str] = field(default_factory=dict)
    permuted: Mapping[str, str] = field(default_factory=dict)
    interleaved: tuple[str, ...] = ()
    transposed: tuple[str, ...] = ()
    norm_offset: float = 0.0


@dataclass(frozen=True, slots=True)
class TensorName:
    """A tensor's place in both worlds.

    Attributes:
        name: in transformers; of a tensor with all experts the pattern, with {} for the expert's number.
        block_name: GGUF's name inside a layer, "" outside of layers.
        is_experts: the tensor holds all experts.
    """

    name: str
    block_name: str
    is_experts: bool = False


def transformers_name(table: NameTable, stored: str) -> TensorName:
    """The published name; one that the architecture does not have stays as it is."""
    if match := _OTHER.fullmatch(stored):
        whole = table.whole.get(match["name"])
        return TensorName(f"{whole}.{match['kind']}" if whole else stored, "")
    match = _BLOCK.fullmatch(stored)
    if match is None:
        return TensorName(stored, "")
    name, prefix = match["name"], table.layers.format(match["layer"])
    if match["expert"] is not None and f"{name}_exps" in table.experts:  # one file entry per expert, before 2024
        return TensorName(f"{prefix}{table.experts[f'{name}_exps'].format(match['expert'])}.{match['kind']}", name)
    if name in table.experts:
        return TensorName(f"{prefix}{table.experts[name]}.{match['kind']}", name, is_experts=True)
    if name not in table.block or match["expert"] is not None:
        return TensorName(stored, name)
    return TensorName(f"{prefix}{table.block[name]}.{match['kind']}", name)
