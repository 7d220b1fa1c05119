"""What a user may set with `--device-option` on this device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from quire.device.host_cpus import available_cpus
from quire.errors import ConfigError
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
        unknown = sorted(set(options) - set(_PARSERS))
        if unknown:
            raise ConfigError(f"device cpu has no option {', '.join(unknown)}", because=f"it has {', '.join(_PARSERS)}")
        given = {name: _PARSERS[name](value) for name, value in options.items()}
        return CpuOptions(**{"threads": available_cpus(), **given})  # type: ignore[arg-type]


def _threads(value: str) -> int:
    if not value.isdecimal() or not 1 <= int(value) <= 1024:
        raise ConfigError(
            f"device option threads={value}",
            because="it is a number of threads between 1 and 1024",
            hint=f"threads={available_cpus()}",
        )
    return int(value)


def _kernels(value: str) -> str:
    names = _native.available_kernels()
    if value not in names:
        raise ConfigError(
            f"device option kernels={value}",
            hint=f"one of {', '.join(names)}",
            because="this build and machine have no kernels of that name",
        )
    return value


def _poison(value: str) -> bool:
    if value not in ("true", "false"):
        raise ConfigError(f"device option poison={value}", because="it is true or false")
    return value == "true"


def _packed_weights(value: str) -> Path:
    if not value:
        raise ConfigError(
            "device option packed_weights is empty",
            because="it names a folder",
            hint="packed_weights=~/.cache/quire/packed",
        )
    return Path(value).expanduser()


_PARSERS: dict[str, Callable[[str], object]] = {
    "threads": _threads,
    "kernels": _kernels,
    "packed_weights": _packed_weights,
    "poison": _poison,
}
