"""Names of quantization schemes: `Weight.scheme` and `Capabilities.weight_schemes` hold them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from quire.errors import ConfigError

PLAIN = "plain"
"""A weight held in a floating-point dtype."""

_NAME = re.compile(r"int(?P<bits>4|8)(?:_g(?P<group>\d+))?(?P<zeros>_zp)?")


@dataclass(frozen=True, slots=True)
class WeightScheme:
    """How a matrix [out, in] is held in integers: weight = scale * (q - zero).

    Attributes:
        bits: 8: q in [-128, 127] around zero point 0, and without zero points of its own; 4: q in [0, 15] around 8.
        group_size: consecutive inputs of one output that share a scale; 0 = all of them ("per channel").
        has_zeros: every group has a zero point, in units of q and not always whole (formats that store a minimum).
    """

    bits: int
    group_size: int = 0
    has_zeros: bool = False

    def __post_init__(self) -> None:
        if self.bits not in (4, 8) or self.group_size < 0 or (self.bits == 8 and self.has_zeros):
            raise ConfigError(
                f"no quantization scheme of {self.bits} bits, groups of {self.group_size} and "
                f"{'' if self.has_zeros else 'no '}zero points",
                because="there are int8 without zero points, and int4",
            )

    @property
    def name(self) -> str:
        """`int8`, `int8_g32`, `int4_g128`, `int4_g32_zp`: bits, group, zero points."""
        return f"int{self.bits}" + (f"_g{self.group_size}" if self.group_size else "") + "_zp" * self.has_zeros

    @property
    def levels(self) -> tuple[int, int]:
        """Smallest and largest q that rounding uses: int8 leaves -128 out, so that it is symmetric."""
        return (-127, 127) if self.bits == 8 else (0, 15)

    @property
    def default_zero(self) -> float:
        """The zero point where groups have none of their own."""
        return 0.0 if self.bits == 8 else 8.0

    def bits_per_element(self, inputs: int) -> float:
        """Bits of memory per weight of a matrix with `inputs` inputs: 16-bit scales and zero points included."""
        group = self.group_size or inputs
        return self.bits + (32 if self.has_zeros else 16) / group

    def num_groups(self, inputs: int) -> int:
        """Groups of one row; the last may be short."""
        return -(-inputs // self.group_size) if self.group_size else 1

    @staticmethod
    def parse(name: str) -> WeightScheme:
        """The scheme of a name other than "plain". Raises ConfigError."""
        match = _NAME.fullmatch(name)
        if match is None:
            raise ConfigError(
                f"quantization scheme {name!r}",
                because="it is not a scheme's name",
                hint="int8, int8_g32, int4_g32, int4_g128_zp ...",
            )
        return WeightScheme(int(match["bits"]), int(match["group"] or 0), bool(match["zeros"]))
