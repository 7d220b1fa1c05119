"""Typed access to the numbers that describe a model in a GGUF file, and a record of which were looked at."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from quire.errors import ModelError

_MISSING: Any = object()

_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "attention.causal": (True,),
    "attention.clamp_kqv": (0,),
    "attention.kv_lora_rank": (0,),
    "attention.max_alibi_bias": (0,),
    "attention.output_scale": (0, 1),
    "attention.q_lora_rank": (0,),
    "attention.scale": (0,),
    "attention.temperature_length": (0,),
    "attention.temperature_scale": (0,),
    "attn_logit_softcapping": (0,),
    "embedding_scale": (0, 1),
    "expert_count": (0,),
    "expert_gating_func": (0, 1),
    "expert_group_count": (0, 1),
    "expert_group_used_count": (0, 1),
    "expert_shared_count": (0,),
    "expert_shared_feed_forward_length": (0,),
    "expert_weights_scale": (0, 1),
    "final_logit_softcapping": (0,),
    "interleave_moe_layer_step": (0, 1),
    "leading_dense_block_count": (0,),
    "logit_scale": (0, 1),
    "moe_every_n_layers": (0, 1),
    "nextn_predict_layers": (0,),
    "residual_scale": (0, 1),
    "rope.dimension_sections": (),
    "rope.scaling.alpha": (0, 1),
    "rope.scaling.yarn_ext_factor": (0, 1),
    "rope.scaling.yarn_log_multiplier": (0,),
    "router_logit_softcapping": (0,),
}
"""Keys that change what a model computes -> what they may be where an architecture does not read them."""


class Hyperparameters:
    """The values under an architecture's prefix ("llama.", "qwen3." ...).

    Args:
        where: how errors call the file.
    """

    def __init__(self, metadata: Mapping[str, Any], architecture: str, where: str) -> None:
        self.where, self.prefix = where, f"{architecture}."
        self._values = {
            key.removeprefix(self.prefix): value for key, value in metadata.items() if key.startswith(self.prefix)
        }
        self._read: set[str] = set()

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def raw(self, key: str) -> Any:
        """The value as it stands, None where there is none; marked as read."""
        self._read.add(key)
        return self._values.get(key)

    def integer(self, key: str, default: Any = _MISSING, *, low: int = 0) -> int:
        """An integer from `low` to 2**31 - 1; of an array with one value per layer the one that all layers share."""
        value = int(self._number(key, default, "an integer", (int, np.integer)))
        if not low <= value < 2**31:
            raise self.refusal(key, f"it is an integer from {low} to {2**31 - 1}")
        return value

    def number(self, key: str, default: Any = _MISSING) -> float:
        """A finite number as a float."""
        value = float(self._number(key, default, "a number", (int, float, np.integer, np.floating)))
        if not math.isfinite(value):
            raise self.refusal(key, "it is not finite")
        return value

    def refusal(self, key: str, because: str) -> ModelError:
        """The error for a value that cannot be honoured."""
        return ModelError(
            f"{self.where}: {self.prefix}{key}={self._values.get(key)!r:.200} not supported", because=because
        )

    def finish(self) -> tuple[str, ...]:
        """Refuses values that change the computation and were not read; returns the other keys nobody read."""
        unread = [key for key in self._values if key not in self._read]
        ignored = [key for key in unread if key in _NEUTRAL and not _is_neutral(self._values[key], _NEUTRAL[key])]
        if ignored:
            raise ModelError(
                f"{self.where}: {', '.join(f'{self.prefix}{key}={self._values[key]!r:.100}' for key in ignored)} "
                "not supported",
                because="it changes what the model computes and this architecture's graph has no place for it",
                hint="a file of another model",
            )
        return tuple(self.prefix + key for key in unread if key not in _NEUTRAL)

    def _number(self, key: str, default: Any, wanted: str, kinds: tuple[type, ...]) -> Any:
        value = self.raw(key)
        if value is None:
            if default is _MISSING:
                raise ModelError(
                    f"{self.where}: {self.prefix}{key} is missing",
                    because="the model cannot be built without it",
                    hint="another file of the model",
                )
            return default
        if isinstance(value, np.ndarray) and value.size:
            if (value != value[0]).any():
                raise self.refusal(key, "layers that differ in it are not implemented")
            value = value[0]
        if isinstance(value, bool) or not isinstance(value, kinds):
            raise self.refusal(key, f"{wanted} is expected there")
        return value


def _is_neutral(value: Any, neutral: tuple[Any, ...]) -> bool:
    return isinstance(value, (bool, int, float)) and any(value == allowed for allowed in neutral)
