"""Drawn L2 cases: shapes and attributes from Hypothesis, the same ones for one seed and version of it."""

from __future__ import annotations

from typing import Any

from quire.device.capabilities import Capabilities
from quire.ops import DECLARED
from quire.testing.conform.op_case import OpCase
from quire.testing.conform.op_cases import dtypes_of


def hypothesis_version() -> str | None:
    """None where it is not installed; then no cases are drawn."""
    try:
        import hypothesis
    except ImportError:
        return None
    return hypothesis.__version__


def drawn_cases(op: str, capabilities: Capabilities, seed: int, count: int) -> list[OpCase]:
    """Up to `count` different cases of an op; dtypes take turns."""
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as seeded

    dtypes = list(dtypes_of(op, capabilities))
    found: dict[str, tuple[dict[str, int], dict[str, Any], tuple[tuple[int, int], ...]]] = {}

    @seeded(seed)
    @settings(
        max_examples=3 * count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(_strategy(op))
    def collect(drawn: tuple[dict[str, int], dict[str, Any], tuple[tuple[int, int], ...]]) -> None:
        found.setdefault(repr(drawn), drawn)

    collect()
    chosen = list(found.values())[-count:]  # the first ones drawn are the smallest possible, which are fixed cases
    return [
        OpCase(op, f"drawn_{index}", sizes, attrs, dtypes[index % len(dtypes)], lines=lines, seed=seed + index)
        for index, (sizes, attrs, lines) in enumerate(chosen)
    ]


def _strategy(op: str) -> Any:
    from hypothesis import strategies as st

    lines = st.lists(st.tuples(st.integers(0, 20), st.integers(1, 6)), min_size=1, max_size=4).map(tuple)
    sizes, attrs = DECLARED[op].kit.draw(st)
    return st.tuples(sizes, attrs, lines)
