"""What a user may set with `--tpu-KEY VALUE` (`--device-option KEY=VALUE`) on the tpu device."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

from quire.device.option_spec import OptionSpec, parse_options

PLATFORM_VARIABLE = "QUIRE_JAX_PLATFORM"

AttentionKind = Literal["auto", "jnp", "pallas"]


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
        given = parse_options("tpu", OPTION_SPECS, options)
        platform = given.get("platform") or os.environ.get(PLATFORM_VARIABLE) or "tpu"
        return TpuOptions(platform, cast(AttentionKind, given.get("attention", "auto")))


OPTION_SPECS = (
    OptionSpec(
        name="platform",
        type="text",
        help="JAX's name of the platform: tpu, cpu, cuda, rocm, ...",
        default=f"${PLATFORM_VARIABLE}, else tpu",
    ),
    OptionSpec(
        name="attention",
        type="text",
        help="the TPU kernel (pallas), or plain XLA (jnp)",
        default="auto: the kernel on TPUs, where the model's head size suits it",
        choices=("auto", "jnp", "pallas"),
    ),
)
"""The same as data."""
