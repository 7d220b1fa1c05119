"""Rotary settings of a config, in today's form (`rope_parameters`) and the older one (`rope_theta`, `rope_scaling`)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from quire.errors import ModelError
from quire.graph.rope import RopeSpec
from quire.models.config_reader import MISSING, ConfigReader

_KEYS: Mapping[str, frozenset[str]] = {
    "default": frozenset(),
    "linear": frozenset({"factor"}),
    "llama3": frozenset({"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}),
    "yarn": frozenset({"factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow",
                       "mscale", "mscale_all_dim", "truncate"}),
    "factors": frozenset({"factors"}),
}
_SHARED_KEYS = frozenset({"rope_type", "type", "rope_theta", "partial_rotary_factor"})


def read_rope(
    config: ConfigReader,
    head_dim: int,
    *,
    default_theta: float = 10000.0,
    theta_key: str = "rope_theta",
    partial_key: str = "partial_rotary_factor",
    default_partial: float = 1.0,
) -> RopeSpec:
    """The rotary table that a config asks for.

    Raises ModelError for a scaling rule, or a parameter of one, that is not implemented.
    """
    current, older = config.raw("rope_parameters"), config.raw("rope_scaling")
    if current and older and current != older:
        raise config.refusal("rope_scaling", "rope_parameters says something else")
    parameters = current or older or {}
    theta = config.number(theta_key, default_theta)
    partial = config.number(partial_key, default_partial)
    return rope_spec(config, parameters, head_dim, default_theta=theta, default_partial=partial)


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
    if kind not in _KEYS:
        raise ModelError(f"{config.where}: rope type {kind!r} not supported",
                         because=f"supported types are {', '.join(_KEYS)}")
    unknown = sorted(name for name, value in parameters.items()
                     if value is not None and name not in _KEYS[kind] | _SHARED_KEYS)
    if unknown:
        raise ModelError(f"{config.where}: rope parameters {', '.join(unknown)} not supported",
                         because=f"rope type {kind!r} takes {', '.join(sorted(_KEYS[kind] | _SHARED_KEYS))}")
    theta = float(parameters.get("rope_theta") or default_theta)
    partial = parameters.get("partial_rotary_factor")
    dims = int(head_dim * float(default_partial if partial is None else partial))
    if dims < 2 or dims % 2 or dims > head_dim:
        raise ModelError(f"{config.where}: {dims} rotated dimensions of a head of {head_dim}",
                         because="an even number between 2 and head_dim is expected")
    if kind == "default":
        return RopeSpec(theta, dims)
    if kind == "linear":
        return RopeSpec(theta, dims, "linear", factor=_number(config, parameters, "factor"))
    if kind == "llama3":
        return RopeSpec(
            theta, dims, "llama3",
            factor=_number(config, parameters, "factor"),
            original_max_len=_original_max_len(config, parameters),
            low_freq_factor=_number(config, parameters, "low_freq_factor"),
            high_freq_factor=_number(config, parameters, "high_freq_factor"),
        )
    if kind == "factors":
        factors = tuple(float(factor) for factor in parameters.get("factors") or ())
        if len(factors) != dims // 2 or not all(factor > 0 for factor in factors):
            raise ModelError(f"{config.where}: {len(factors)} rotary factors for {dims} rotated dimensions",
                             because="there is one above 0 for each pair")
        return RopeSpec(theta, dims, "factors", factors=factors)
    return _yarn(config, parameters, theta, dims)


def scaled_max_len(config: ConfigReader, rope: RopeSpec, *, config_is_scaled: bool = False,
                   default: int = MISSING) -> int:
    """Longest sequence: `max_position_embeddings`, extended where linear or yarn scaling extends it.

    yarn extends its original length; linear extends max_position_embeddings unless the family publishes it extended.
    """
    max_len = config.integer("max_position_embeddings", default)
    if rope.scaling == "yarn":
        return max(max_len, int(rope.original_max_len * rope.factor))
    if rope.scaling == "linear" and not config_is_scaled:
        return int(max_len * rope.factor)
    return max_len


def _yarn(config: ConfigReader, parameters: Mapping[str, Any], theta: float, dims: int) -> RopeSpec:
    factor = _number(config, parameters, "factor")
    attention_factor = parameters.get("attention_factor")
    if attention_factor is None:
        mscale, mscale_all_dim = parameters.get("mscale"), parameters.get("mscale_all_dim")
        if mscale and mscale_all_dim:
            attention_factor = _yarn_magnitude(factor, mscale) / _yarn_magnitude(factor, mscale_all_dim)
        else:
            attention_factor = _yarn_magnitude(factor, 1.0)
    return RopeSpec(
        theta, dims, "yarn",
        factor=factor,
        original_max_len=_original_max_len(config, parameters),
        beta_fast=float(parameters.get("beta_fast") or 32.0),
        beta_slow=float(parameters.get("beta_slow") or 1.0),
        truncate=bool(parameters.get("truncate", True)),
        attention_factor=float(attention_factor),
    )


def _yarn_magnitude(factor: float, mscale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def _original_max_len(config: ConfigReader, parameters: Mapping[str, Any]) -> int:
    given = parameters.get("original_max_position_embeddings")
    return int(given) if given else config.integer("max_position_embeddings")


def _number(config: ConfigReader, parameters: Mapping[str, Any], name: str) -> float:
    value = parameters.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ModelError(f"{config.where}: rope parameter {name}={value!r}", because="a number is expected there")
    return float(value)
