"""What a user may set with `--tpu-KEY VALUE` (`--device-option KEY=VALUE`) on the tpu device."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

from quire.errors import ConfigError

PLATFORM_VARIABLE = "QUIRE_JAX_PLATFORM"

AttentionKind = Literal["auto", "jnp", "pallas"]
_ATTENTION = ("auto", "jnp", "pallas")


@dataclass(frozen=True, slots=True)
class TpuOptions:
    """Options of the device.

    Attributes:
        platform: JAX's name of the platform: tpu, or cpu, cuda, rocm, ... where that is wanted instead.
        attention: "pallas" = the TPU kernel (interpreted, and slow, on other platforms); "jnp" = plain XLA;
            "auto" = the kernel on TPUs where the model's head size suits it, else jnp.
    """

    platform: str = "tpu"
    attention: AttentionKind = "auto"

    @staticmethod
    def parse(options: Mapping[str, str]) -> TpuOptions:
        """Options from `key=value` pairs; without `platform`, the environment's QUIRE_JAX_PLATFORM, else tpu.

        Raises: ConfigError on an unknown key or value.
        """
        unknown = sorted(set(options) - {"platform", "attention"})
        if unknown:
            raise ConfigError(f"device tpu has no option {', '.join(unknown)}", because="it has platform and attention")
        platform = options.get("platform") or os.environ.get(PLATFORM_VARIABLE) or "tpu"
        attention = options.get("attention", "auto")
        if attention not in _ATTENTION:
            raise ConfigError(f"device option attention={attention}", because=f"it is one of {', '.join(_ATTENTION)}")
        return TpuOptions(platform, cast(AttentionKind, attention))
