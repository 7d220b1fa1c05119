"""What all layers of one step share beyond the context: derived when first asked for, dropped with the step."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from quire.device.contract import StepContext


class StepMemo:
    """Values derived from one step's context. A new context empties it."""

    def __init__(self) -> None:
        self._context: StepContext | None = None
        self._values: dict[Hashable, Any] = {}

    def get(self, context: StepContext, key: Hashable, make: Callable[[], Any]) -> Any:
        """The value of `key` for this step, made once."""
        if context is not self._context:
            self._context, self._values = context, {}
        if key not in self._values:
            self._values[key] = make()
        return self._values[key]
