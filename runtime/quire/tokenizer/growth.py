"""Tokenizers whose rules for texts make them longer and longer: forty that double a letter turn it into a terabyte."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import tokenizers

from quire.errors import ModelError

MOST_GROWTH = 1000
"""Times. Published tokenizers write at most three bytes for a space."""


def check_growth(backend: tokenizers.Tokenizer, where: str) -> None:
    """Raises ModelError for a tokenizer whose normalizer or decoder can make a text more than `MOST_GROWTH` longer."""
    for part in (backend.normalizer, backend.decoder):
        if part is not None and (growth := _growth(json.loads(part.__getstate__()))) > MOST_GROWTH:
            raise ModelError(
                f"{where}: its {type(part).__name__} makes texts up to {growth:g} times as long",
                because=f"at most {MOST_GROWTH} times is read",
                hint="a tokenizer that does not do that",
            )


def _growth(description: Mapping[str, Any]) -> float:
    """How many times as long a text can become; rules of a sequence multiply."""
    growth = 1.0
    for key in ("normalizers", "decoders"):
        for part in description.get(key) or ():
            growth = min(growth * _growth(part), 1e300)
    if description.get("type") == "Replace":
        pattern = description.get("pattern") or {}
        growth *= max(1.0, len(str(description.get("content"))) / max(1, len(pattern.get("String", ""))))
    return growth
