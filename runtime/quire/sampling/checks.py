"""Logits that no model should give: NaN and +inf are reported, never sampled from."""

from __future__ import annotations

import math

from quire.errors import BackendError


def check_finite(largest: float, logits_row: int) -> None:
    """Raises BackendError unless `largest`, the maximum of a row of logits, is a number below +inf.

    NumPy's maximum is NaN as soon as one element is.
    """
    if math.isnan(largest) or largest == math.inf:
        raise BackendError(
            f"logits row {logits_row} holds {'NaN' if math.isnan(largest) else 'an infinite logit'}",
            because="the model's arithmetic overflowed, or the device wrote or read wrong memory",
            try_="a wider dtype (--dtype float32), or `quire conform` to check the device",
        )
