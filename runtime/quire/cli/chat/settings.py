"""The settings of a chat's next answer, as a user writes and reads them. No terminal, no engine."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable
from typing import Any

from quire.cli.sampling_args import max_tokens_of
from quire.errors import RequestError
from quire.sampling_params import SamplingParams


def _stop_strings(text: str) -> list[str]:
    """One string as it stands, or JSON: a string in quotes, or a list of them."""
    if text[:1] not in ("[", '"'):
        return [text]
    value = json.loads(text)
    return value if isinstance(value, list) else [value]


READERS: dict[str, Callable[[str], Any]] = {
    "temperature": float, "top_p": float, "top_k": int, "min_p": float, "max_tokens": int, "seed": int,
    "stop": _stop_strings, "repetition_penalty": float, "presence_penalty": float, "frequency_penalty": float,
}  # fmt: skip
"""What `/set` knows -> how its text is read; SamplingParams knows the ranges."""

_KINDS: dict[object, str] = {float: "a number", int: "a whole number", _stop_strings: 'a text, or JSON as ["a", "b"]'}


def _require_known(name: str) -> None:
    if name not in READERS:
        near = difflib.get_close_matches(name[:100].lower(), READERS, n=1)
        raise RequestError(f"{name[:100]!r} is no setting", hint=near[0] if near else ", ".join(READERS))


class Settings:
    """Values of SamplingParams that hold until they are set anew."""

    def __init__(self, values: dict[str, Any]) -> None:
        """`values` are also what "default" goes back to. Raises RequestError."""
        self._start = dict(values)
        self._values = dict(values)
        self.params = SamplingParams(**values)

    def set(self, name: str, text: str) -> None:
        """Takes a value as a user writes it; "default" is the one at start. RequestError changes nothing."""
        _require_known(name)
        try:
            value = self._start.get(name) if text == "default" else READERS[name](text)
        except (ValueError, RecursionError) as error:
            raise RequestError(f"{name} is {_KINDS[READERS[name]]}, not {text[:100]!r}", param=name) from error
        self.update({name: value})

    def update(self, values: dict[str, Any]) -> None:
        """Takes several values at once, or none of them. Raises RequestError."""
        for name in values:
            _require_known(name)
        changed = {**self._values, **values}
        number = changed["max_tokens"]
        if isinstance(number, int):
            changed["max_tokens"] = max_tokens_of(number)
        self.params = SamplingParams(**changed)
        self._values = changed

    def as_json(self) -> dict[str, Any]:
        """Every setting and its value, for a file."""
        values = {name: getattr(self.params, name) for name in READERS}
        return {**values, "stop": list(self.params.stop_strings)}

    def lines(self) -> list[str]:
        """Every setting and its value, for people."""
        shown = {**self.as_json(), "seed": "drawn anew each time" if self.params.seed is None else self.params.seed}
        if self.params.max_tokens is None:
            shown["max_tokens"] = "0 (up to the end of the context)"
        shown["stop"] = json.dumps(shown["stop"], ensure_ascii=False) if shown["stop"] else "none"
        return [f"{name:<20}{value}" for name, value in shown.items()]
