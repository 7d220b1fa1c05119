"""Logits that no model should give: a row with NaN or +inf is reported, never sampled from."""

from __future__ import annotations

import math

from quire.errors import BackendError


def is_finite_row(largest: float) -> bool:
    """Whether `largest`, the maximum of a row of logits, is a number below +inf.

    NumPy's maximum is NaN as soon as one element is.
    """
    return not math.isnan(largest) and largest != math.inf


def not_finite_error() -> BackendError:
    """The error that ends a request whose row came back as NOT_FINITE."""
    return BackendError(
        "the logits of this request hold NaN or an infinity",
        because="the model's arithmetic overflowed, its weights hold NaN, or the device wrote or read wrong memory",
        hint="a wider dtype (--dtype float32), or `quire conform` to check the device",
    )
