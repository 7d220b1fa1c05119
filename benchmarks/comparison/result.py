"""Figures by row, round and contender: medians, shares of limits, and ratios to the best peer of the same round."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field
from typing import Any

from comparison.contender import OURS, Contender
from comparison.rows import Row


@dataclass(frozen=True)
class Standing:
    """One of our formats in one row.

    Attributes:
        best_peer: label of the peer it is compared with, the best by its median; None = no peer ran.
        ratio: how many times better than the best peer of each round, median over rounds.
    """

    label: str
    value: float
    limit: float | None
    share: float | None
    best_peer: str | None
    best_value: float | None
    ratio: float | None


@dataclass
class Result:
    """All that was measured of one row; one dict a round, by contender's label."""

    row: Row
    contenders: list[Contender]
    values: list[dict[str, float]] = field(default_factory=list)
    limits: list[dict[str, float]] = field(default_factory=list)

    def median(self, label: str) -> float:
        return statistics.median(values[label] for values in self.values)

    def standings(self) -> list[Standing]:
        """Each of our formats beside its limit and its best peer."""
        return [self._standing(contender) for contender in self.contenders if contender.name == OURS]

    def as_json(self) -> dict[str, Any]:
        """For machines: every round, and the medians."""
        return {
            "row": self.row.name,
            "unit": self.row.unit,
            "rounds": [
                {"figures": values, "limits": limits} for values, limits in zip(self.values, self.limits, strict=True)
            ],
            "medians": {contender.label: self.median(contender.label) for contender in self.contenders},
            "standings": [asdict(standing) for standing in self.standings()],
        }

    def _standing(self, ours: Contender) -> Standing:
        label, limits = ours.label, [limits[ours.label] for limits in self.limits if ours.label in limits]
        shares = [
            values[label] / limit[label]
            for values, limit in zip(self.values, self.limits, strict=True)
            if label in limit
        ]
        peers = [peer.label for peer in self._peers(ours)]
        better = min if self.row.lower_is_better else max
        best = better(peers, key=self.median) if peers else None
        ratios = [
            self._times_better(values[label], better(values[peer] for peer in peers)) for values in self.values if peers
        ]
        return Standing(
            label,
            self.median(label),
            statistics.median(limits) if limits else None,
            statistics.median(shares) if shares else None,
            best,
            self.median(best) if best else None,
            statistics.median(ratios) if ratios else None,
        )

    def _peers(self, ours: Contender) -> list[Contender]:
        """Those it is compared with: of its own width, or all where the row says so or no peer has that width."""
        peers = [contender for contender in self.contenders if contender.name != OURS]
        same = [peer for peer in peers if min(peer.bits, 16) == min(ours.bits, 16)]
        return peers if self.row.fair_to == "all" else same or peers

    def _times_better(self, ours: float, theirs: float) -> float:
        return theirs / ours if self.row.lower_is_better else ours / theirs
