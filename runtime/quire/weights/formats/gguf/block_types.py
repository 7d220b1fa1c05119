"""The tensor types of GGUF: their numbers in files, their blocks, and which of them Quire reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class BlockType:
    """A tensor type: `size` values of a row are stored together in `nbytes` bytes.

    Attributes:
        scheme: the `WeightScheme` its matrices become, "plain" for floating point, None where Quire does not read it.
        is_rounded_again: the scheme cannot hold its values, which are rounded to it.
    """

    name: str
    size: int
    nbytes: int
    scheme: str | None = None
    is_rounded_again: bool = False


BLOCK_TYPES: Mapping[int, BlockType] = MappingProxyType(
    {
        0: BlockType("F32", 1, 4, "plain"),
        1: BlockType("F16", 1, 2, "plain"),
        2: BlockType("Q4_0", 32, 18, "int4_g32"),
        3: BlockType("Q4_1", 32, 20, "int4_g32_zp"),
        6: BlockType("Q5_0", 32, 22, "int8_g32"),
        7: BlockType("Q5_1", 32, 24, "int8_g32", is_rounded_again=True),
        8: BlockType("Q8_0", 32, 34, "int8_g32"),
        9: BlockType("Q8_1", 32, 40),
        10: BlockType("Q2_K", 256, 84),
        11: BlockType("Q3_K", 256, 110),
        12: BlockType("Q4_K", 256, 144, "int4_g32_zp"),
        13: BlockType("Q5_K", 256, 176, "int8_g32", is_rounded_again=True),
        14: BlockType("Q6_K", 256, 210, "int8_g16"),
        15: BlockType("Q8_K", 256, 292),
        16: BlockType("IQ2_XXS", 256, 66),
        17: BlockType("IQ2_XS", 256, 74),
        18: BlockType("IQ3_XXS", 256, 98),
        19: BlockType("IQ1_S", 256, 50),
        20: BlockType("IQ4_NL", 32, 18),
        21: BlockType("IQ3_S", 256, 110),
        22: BlockType("IQ2_S", 256, 82),
        23: BlockType("IQ4_XS", 256, 136),
        24: BlockType("I8", 1, 1),
        25: BlockType("I16", 1, 2),
        26: BlockType("I32", 1, 4),
        27: BlockType("I64", 1, 8),
        28: BlockType("F64", 1, 8),
        29: BlockType("IQ1_M", 256, 56),
        30: BlockType("BF16", 1, 2, "plain"),
        34: BlockType("TQ1_0", 256, 54),
        35: BlockType("TQ2_0", 256, 66),
        39: BlockType("MXFP4", 32, 17),
        40: BlockType("NVFP4", 64, 36),
        41: BlockType("Q1_0", 128, 18),
    }
)
"""Number in the file -> type. Source: the GGUF specification and the sizes of ggml's blocks."""

READABLE = tuple(kind.name for kind in BLOCK_TYPES.values() if kind.scheme is not None)
