"""What a user may set with `--device-option` on this device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from quire.device.host_cpus import available_cpus
from quire.device.option_spec import OptionSpec, parse_options
from quire_cpu import _native

BFLOAT16_KERNELS = "avx512_bf16"
"""The kernel set that multiplies bfloat16 weights with activations rounded to bfloat16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuOptions:
    """Options of the cpu device.

    Attributes:
        threads: threads that compute, the step's own included; default: `available_cpus`.
        kernels: kernel set by name ("avx2", "portable", ...), "" = the best this machine can run.
        packed_weights: folder where packed weights are kept for the next start; None = nowhere.
        poison: fill the KV cache at allocation and all activations before each step with NaN (a check; slow).
    """

    threads: int
    kernels: str = ""
    packed_weights: Path | None = None
    poison: bool = False

    @property
    def act_dtypes(self) -> tuple[str, ...]:
        """Activation dtypes, preferred first. bfloat16: linears, and attention over a bf16 cache, round."""
        if self.kernels == BFLOAT16_KERNELS:
            return ("bfloat16",)
        if not self.kernels and BFLOAT16_KERNELS in _native.available_kernels():
            return ("float32", "bfloat16")
        return ("float32",)

    def kernels_for(self, act_dtype: str) -> str:
        """The kernel set of a plan: what was asked for, else the best one that computes in `act_dtype`."""
        return self.kernels or (BFLOAT16_KERNELS if act_dtype == "bfloat16" else "")

    @staticmethod
    def parse(options: Mapping[str, str]) -> CpuOptions:
        """Options from `key=value` pairs. Raises ConfigError on an unknown key or a value that does not fit."""
        given = parse_options("cpu", option_specs(), options)
        return CpuOptions(**{"threads": available_cpus(), **given})


def option_specs() -> tuple[OptionSpec, ...]:
    """The same as data."""
    return (
        OptionSpec(
            name="threads",
            type="integer",
            help="threads that compute, the step's own included",
            default=str(available_cpus()),
            least=1,
            most=1024,
        ),
        OptionSpec(
            name="kernels",
            type="text",
            help="kernel set of one instruction set",
            default="the best that this machine can run",
            choices=tuple(_native.available_kernels()),
        ),
        OptionSpec(
            name="packed_weights",
            type="path",
            help="folder where packed weights are kept for the next start",
            default="they are not kept",
        ),
        OptionSpec(
            name="poison",
            type="switch",
            help="fill the KV cache and all activations with NaN before use (a check; slow)",
            default="false",
        ),
    )
