"""Rotary settings of a config, in today's form (`rope_parameters`) and the older one (`rope_theta`, `rope_scaling`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from quire.errors import ModelError
from quire.graph.rope import RopeSpec
from quire.models.config.reader import MOST, ConfigReader

_KEYS: Mapping[str, frozenset[str]] = {
    "default": frozenset(),
    "linear": frozenset({"factor"}),
    "llama3": frozenset({"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}),
    "yarn": frozenset(
        {
            "factor",
            "original_max_position_embeddings",
            "attention_factor",
            "beta_fast",
            "beta_slow",
            "mscale",
            "mscale_all_dim",
            "truncate",
        }
    ),
    "factors": frozenset({"factors"}),
}
LEAST_THETA = 1.0
"""Below, frequencies would rise from pair to pair."""

_LEAST = 1e-6
"""Of what is divided by."""

_SHARED_KEYS = frozenset({"rope_type", "type", "rope_theta", "partial_rotary_factor"})


def read_rope(config: ConfigReader, head_dim: int) -> RopeSpec:
    """The rotary table that a config asks for.

    Raises ModelError for a scaling rule, or a parameter of one, that is not implemented.
    """
    current = rope_object(config, "rope_parameters", config.raw("rope_parameters"))
    older = rope_object(config, "rope_scaling", config.raw("rope_scaling"))
    if current and older and current != older:
        raise config.refusal("rope_scaling", "rope_parameters says something else")
    theta = config.number("rope_theta", 10000.0, low=LEAST_THETA)
    partial = config.number("partial_rotary_factor", 1.0, high=1.0)
    return rope_spec(config, current or older, head_dim, default_theta=theta, default_partial=partial)


def rope_object(config: ConfigReader, name: str, value: Any) -> Mapping[str, Any]:
    """An object of rotary parameters, empty for null. Raises ModelError for anything else under `name`."""
    if value is not None and not isinstance(value, Mapping):
        raise config.refusal(name, "an object is expected there")
    return value or {}


def rope_spec(
    config: ConfigReader,
    parameters: Mapping[str, Any],
    head_dim: int,
    *,
    default_theta: float,
    default_partial: float = 1.0,
) -> RopeSpec:
    """The table for one object of rotary parameters; what it leaves out comes from the defaults."""
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if not isinstance(kind, str) or kind not in _KEYS:
        raise ModelError(
            f"{config.where}: rope type {kind!r:.100} not supported", because=f"supported types are {', '.join(_KEYS)}"
        )
    unknown = sorted(
        name for name, value in parameters.items() if value is not None and name not in _KEYS[kind] | _SHARED_KEYS
    )
    if unknown:
        raise ModelError(
            f"{config.where}: rope parameters {', '.join(unknown):.500} not supported",
            because=f"rope type {kind!r} takes {', '.join(sorted(_KEYS[kind] | _SHARED_KEYS))}",
        )
    reader = ConfigReader(parameters, f"{config.where}: rope parameters")
    theta = reader.number("rope_theta", default_theta, low=LEAST_THETA)
    partial = reader.number("partial_rotary_factor", default_partial, high=1.0)
    dims = int(head_dim * partial)
    if dims < 2 or dims % 2:
        raise ModelError(
            f"{config.where}: {dims} rotated dimensions of a head of {head_dim}",
            because="an even number between 2 and head_dim is expected",
        )
    spec = _READERS[kind](reader, config, RopeSpec(theta, dims))
    if not _has_frequencies(spec):
        raise ModelError(
            f"{config.where}: rope parameters {dict(parameters)!s:.300}",
            because="they give frequencies that are no numbers",
        )
    return spec


def _has_frequencies(spec: RopeSpec) -> bool:
    try:
        with np.errstate(all="ignore"):
            return bool(np.isfinite(spec.inv_freq()).all())
    except ArithmeticError:  # a rule that divides by what these parameters make 0
        return False


def scaled_max_len(config: ConfigReader, rope: RopeSpec | None, *, config_is_scaled: bool = False) -> int:
    """Longest sequence: `max_position_embeddings`, extended where linear or yarn scaling extends it.

    yarn extends its original length; linear extends max_position_embeddings unless the family publishes it extended.
    """
    max_len = config.integer("max_position_embeddings")
    if rope is None:
        return max_len
    if rope.scaling == "yarn":
        max_len = max(max_len, int(rope.original_max_len * rope.factor))
    elif rope.scaling == "linear" and not config_is_scaled:
        max_len = int(max_len * rope.factor)
    if not 1 <= max_len <= MOST:
        raise config.refusal(
            "max_position_embeddings", f"scaled by {rope.factor:g} it is {max_len}: positions are integers up to {MOST}"
        )
    return max_len


def _default(reader: ConfigReader, config: ConfigReader, plain: RopeSpec) -> RopeSpec:
    return plain


def _linear(reader: ConfigReader, config: ConfigReader, plain: RopeSpec) -> RopeSpec:
    return replace(plain, scaling="linear", factor=_factor(reader))


def _llama3(reader: ConfigReader, config: ConfigReader, plain: RopeSpec) -> RopeSpec:
    return replace(
        plain,
        scaling="llama3",
        factor=_factor(reader),
        original_max_len=_original_max_len(reader, config),
        low_freq_factor=reader.number("low_freq_factor", low=_LEAST),
        high_freq_factor=reader.number("high_freq_factor", low=_LEAST),
    )


def _factors(reader: ConfigReader, config: ConfigReader, plain: RopeSpec) -> RopeSpec:
    given = reader.raw("factors")
    factors = tuple(given) if isinstance(given, list) else ()
    if len(factors) != plain.dims // 2 or not all(isinstance(factor, float) and factor > 0 for factor in factors):
        raise ModelError(
            f"{reader.where}: {len(factors)} rotary factors for {plain.dims} rotated dimensions",
            because="there is one above 0 for each pair",
        )
    return replace(plain, scaling="factors", factors=factors)


def _yarn(reader: ConfigReader, config: ConfigReader, plain: RopeSpec) -> RopeSpec:
    factor = _factor(reader)
    mscale, mscale_all_dim = reader.number("mscale", 0.0), reader.number("mscale_all_dim", 0.0)
    if mscale and mscale_all_dim:
        magnitude = _yarn_magnitude(factor, mscale) / _yarn_magnitude(factor, mscale_all_dim)
    else:
        magnitude = _yarn_magnitude(factor, 1.0)
    return replace(
        plain,
        scaling="yarn",
        factor=factor,
        original_max_len=_original_max_len(reader, config),
        beta_fast=reader.number("beta_fast", 0.0) or 32.0,
        beta_slow=reader.number("beta_slow", 0.0) or 1.0,
        truncate=reader.flag("truncate", True),
        attention_factor=reader.number("attention_factor", magnitude),
    )


_READERS: Mapping[str, Callable[[ConfigReader, ConfigReader, RopeSpec], RopeSpec]] = {
    "default": _default,
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
    "factors": _factors,
}
"""Rope type -> reader(its parameters, the config around them, the table without scaling)."""


def _yarn_magnitude(factor: float, mscale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def _factor(reader: ConfigReader) -> float:
    return reader.number("factor", low=_LEAST, high=1e6)


def _original_max_len(reader: ConfigReader, config: ConfigReader) -> int:
    """The length before extension; 0 and null mean what the config says itself."""
    given = reader.integer("original_max_position_embeddings", 0, low=0)
    return given or config.integer("max_position_embeddings")
