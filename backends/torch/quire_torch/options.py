"""What a user may set with `--device-option` on the devices that torch drives."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from quire.device.option_spec import OptionSpec, parse_options
from quire.errors import ConfigError

_DEVICE = re.compile(r"(cpu|mps|cuda(:\d+)?|xpu(:\d+)?)")


@dataclass(frozen=True, slots=True)
class TorchOptions:
    """Options of the devices torch, cuda and rocm.

    Attributes:
        device: torch's name of the device: cpu, mps, cuda, cuda:1, xpu, ...; AMD's devices are called cuda as well.
        attention: "triton", the kernel, which is the default on cuda devices; "torch", plain operations.
        threads: of torch on the CPU; None = as torch chooses, within
            `available_cpus`. torch's threads are the whole process's.
    """

    device: str = "cpu"
    attention: str = "torch"
    threads: int | None = None

    @property
    def device_type(self) -> str:
        """cpu, mps, cuda or xpu."""
        return self.device.split(":")[0]

    @staticmethod
    def parse(options: Mapping[str, str], *, name: str = "torch", device: str = "cpu") -> TorchOptions:
        """Options from `key=value` pairs; `device` is what is meant when none is given.

        Raises: ConfigError on an unknown key or a value that does not fit.
        """
        given = parse_options(name, option_specs(device), options)
        chosen = given.get("device", device)
        if not _DEVICE.fullmatch(chosen):
            raise ConfigError(
                f"device option device={chosen}",
                because="torch devices are cpu, cuda, xpu and mps",
                hint="device=cpu, or device=cuda:1 for the second one",
            )
        if name != "torch" and chosen.split(":")[0] != device:
            raise ConfigError(
                f"device option device={chosen} on device {name}",
                because=f"its devices are {device}:N",
                hint="--device torch for the others",
            )
        return TorchOptions(chosen, _attention(given.get("attention"), chosen), _threads(given.get("threads"), chosen))


def _attention(given: str | None, device: str) -> str:
    if given is None:
        return "triton" if device.startswith("cuda") else "torch"
    if given == "triton" and device == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        raise ConfigError(
            "device option attention=triton on the CPU",
            because="Triton compiles for GPUs only",
            hint="TRITON_INTERPRET=1, which interprets kernels on the CPU (for tests: very slow)",
        )
    return given


def _threads(given: int | None, device: str) -> int | None:
    if given is not None and device != "cpu":
        raise ConfigError(f"device option threads={given} with device={device}", because="it is for torch on the CPU")
    return given


def option_specs(device: str) -> tuple[OptionSpec, ...]:
    """The same as data, for a device that means torch's `device` when none is given."""
    return (
        OptionSpec(name="device", type="text", help="torch's name of the device, such as cuda:1", default=device),
        OptionSpec(
            name="attention",
            type="text",
            help="the attention kernel, or plain operations",
            default="triton on cuda devices, else torch",
            choices=("torch", "triton"),
        ),
        OptionSpec(
            name="threads",
            type="integer",
            help="of torch on the CPU, for the whole process",
            default="as torch chooses",
            least=1,
            most=1024,
        ),
    )
