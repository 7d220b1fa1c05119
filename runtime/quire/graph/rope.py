"""Rotary position tables: one definition of every scaling rule, shared by all devices.

A device never computes sin and cos itself; it asks for `rope_table(spec, num_rows)` and looks rows up by position, so
that all devices rotate by the same float32 numbers. A row does not depend on how many there are: a device holds as
many as the positions it has met need (`rope_rows`), not one for each that a model could have.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

FIRST_ROPE_ROWS = 8192
"""Fewer rows are not held: 4 MiB for heads of 128."""

RopeScaling = Literal["default", "linear", "llama3", "yarn", "factors"]


@dataclass(frozen=True, slots=True)
class RopeSpec:
    """Parameters of a rotary table.

    Attributes:
        theta: base of the frequencies.
        dims: rotated dimensions of a head (even; less than head_dim for partial rotary).
        scaling: rule; the fields below apply to the rules that name them.
        factor: linear, llama3, yarn.
        original_max_len: llama3, yarn: context length before extension.
        low_freq_factor, high_freq_factor: llama3.
        beta_fast, beta_slow, truncate: yarn.
        attention_factor: yarn: multiplies cos and sin.
        factors: factors: what each frequency is divided by, dims/2 of them (GGUF files store llama3's rule so).
    Source: RoFormer arXiv:2104.09864; YaRN arXiv:2309.00071; llama3: Llama 3.1 model card.
    """

    theta: float
    dims: int
    scaling: RopeScaling = "default"
    factor: float = 1.0
    original_max_len: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float = 1.0
    factors: tuple[float, ...] = ()

    def inv_freq(self) -> np.ndarray:
        """Angular frequency of each rotated pair, float32 [dims/2]."""
        exponent = np.arange(0, self.dims, 2, dtype=np.float32) / np.float32(self.dims)
        base = (1.0 / np.power(np.float32(self.theta), exponent)).astype(np.float32)
        if self.scaling == "default":
            return base
        if self.scaling == "linear":
            return (base / np.float32(self.factor)).astype(np.float32)
        if self.scaling == "llama3":
            return _llama3(self, base)
        if self.scaling == "factors":
            return (base / np.asarray(self.factors, np.float32)).astype(np.float32)
        return _yarn(self, base)


def rope_rows(num_positions: int, max_len: int) -> int:
    """Rows to hold for positions below `num_positions`: few sizes, so that a table seldom grows; at most `max_len`."""
    return min(max_len, max(FIRST_ROPE_ROWS, 1 << (num_positions - 1).bit_length()))


@lru_cache(maxsize=64)
def rope_table(spec: RopeSpec, num_rows: int, first: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin of positions `first` on, each float32 [num_rows, dims/2], read-only, computed once."""
    angle = np.arange(first, first + num_rows, dtype=np.float32)[:, None] * spec.inv_freq()[None, :]
    factor = np.float32(spec.attention_factor)
    cos, sin = (np.cos(angle) * factor).astype(np.float32), (np.sin(angle) * factor).astype(np.float32)
    cos.setflags(write=False)
    sin.setflags(write=False)
    return cos, sin


def _llama3(spec: RopeSpec, base: np.ndarray) -> np.ndarray:
    wavelen = 2 * math.pi / base
    low_wavelen = spec.original_max_len / spec.low_freq_factor
    high_wavelen = spec.original_max_len / spec.high_freq_factor
    smooth = (spec.original_max_len / wavelen - spec.low_freq_factor) / (spec.high_freq_factor - spec.low_freq_factor)
    blended = (1 - smooth) * base / spec.factor + smooth * base
    scaled = np.where(wavelen > low_wavelen, base / spec.factor, np.where(wavelen < high_wavelen, base, blended))
    return scaled.astype(np.float32)


def _yarn(spec: RopeSpec, base: np.ndarray) -> np.ndarray:
    def correction_dim(num_rotations: float) -> float:
        wavelen = num_rotations * 2 * math.pi
        return spec.dims * math.log(spec.original_max_len / wavelen) / (2 * math.log(spec.theta))

    low, high = correction_dim(spec.beta_fast), correction_dim(spec.beta_slow)
    if spec.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, spec.dims - 1)
    span = 0.001 if low == high else high - low
    ramp = np.clip((np.arange(spec.dims // 2, dtype=np.float32) - low) / span, 0, 1)
    return (base / spec.factor * ramp + base * (1 - ramp)).astype(np.float32)
