"""What a benchmark prints and writes: figures, each beside the limit it was measured with."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from quire.device.capabilities import MachineLimits


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number, the limit it stands beside, and their ratio; limit None = there is none.

    Attributes:
        limit_name: what the limit is made of, for example "read".
    """

    name: str
    value: float
    unit: str
    limit: float | None = None
    limit_name: str = ""

    @property
    def share(self) -> float | None:
        return self.value / self.limit if self.limit else None

    def line(self) -> str:
        """For people."""
        text = f"  {self.name:<28} {self.value:>12,.2f} {self.unit:<9}"
        if self.share is None:
            return text.rstrip()
        return f"{text}  {self.share:6.1%} of {self.limit_name or 'the limit'} {self.limit:,.1f}"


@dataclass(frozen=True, slots=True)
class Report:
    """Figures of one benchmark, its settings, and the machine's limits measured between its runs."""

    title: str
    settings: dict[str, Any]
    figures: list[Figure]
    limits: MachineLimits | None

    def lines(self) -> list[str]:
        """For people."""
        rows = [self.title, ", ".join(f"{key}={value}" for key, value in self.settings.items())]
        if self.limits is not None:
            rows.append(limits_line(self.limits))
        return [*rows, *(figure.line() for figure in self.figures)]

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "title": self.title,
            "settings": self.settings,
            "limits": None if self.limits is None else asdict(self.limits),
            "figures": [{**asdict(figure), "share": figure.share} for figure in self.figures],
        }


def limits_line(limits: MachineLimits) -> str:
    """The machine's limits in one line."""
    one_stream = limits.single_stream_bytes_per_s
    parts = [
        f"read {limits.read_bytes_per_s / 1e9:.1f} GB/s"
        + (f" (one stream a thread: {one_stream / 1e9:.1f})" if one_stream else "")
    ]
    parts.append(f"arithmetic {limits.flops_per_s / 1e9:.0f} GFLOP/s")
    parts += [f"bfloat16 {limits.bf16_flops_per_s / 1e9:.0f} GFLOP/s"] if limits.bf16_flops_per_s else []
    parts += [f"int8 {limits.int8_ops_per_s / 1e9:.0f} Gop/s"] if limits.int8_ops_per_s else []
    return f"limits: {', '.join(parts)} ({limits.description})"
