"""How a stack of layers repeats: what lets an executor compile one body and run it many times."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from quire.graph.ir import Part


def segments(layers: Sequence[Part]) -> list[tuple[int, int]]:
    """[(period, repeats), ...] that cover the layers in order; the bodies to compile number sum(period).

    Greedy: at each place the repetition that covers most layers, the shorter period among equals.
    Gemma 3's 26 layers (5 sliding, 1 full, ...) give [(6, 4), (1, 2)].
    """
    return repetitions([layer.signature() for layer in layers])


def repetitions(kinds: Sequence[Hashable]) -> list[tuple[int, int]]:
    """`segments` of any sequence; equal items are layers of one kind."""
    first_seen: dict[Hashable, int] = {}
    letters = [first_seen.setdefault(kind, len(first_seen)) for kind in kinds]
    found: list[tuple[int, int]] = []
    start = 0
    while start < len(letters):
        rest = letters[start:]
        period, repeats = max(
            ((period, _repeats(rest, period)) for period in range(1, len(rest) // 2 + 1)),
            key=lambda candidate: (candidate[0] * candidate[1] if candidate[1] > 1 else 0, -candidate[0]),
            default=(1, 1),
        )
        if repeats == 1:
            period = 1
        found.append((period, repeats))
        start += period * repeats
    return found


def _repeats(letters: Sequence[int], period: int) -> int:
    body, count = letters[:period], 1
    while letters[count * period : (count + 1) * period] == body:
        count += 1
    return count
