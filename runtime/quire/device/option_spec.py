"""Options of a backend as data: what `quire devices NAME` lists, and what the core checks before the backend sees them.

Since contract 1.2. A backend gives them by the optional hook `quire_options`, and reads what users gave by
`parse_options`; one without the hook gets every pair, and refuses by itself what it does not know.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from quire.errors import ConfigError

OptionType = Literal["text", "integer", "number", "switch", "path"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionSpec:
    """One option, given as `--device-option name=value` or `--DEVICE-name value`.

    Attributes:
        name: with underscores; a flag has hyphens.
        type: "text", "integer", "number" (finite), "switch" (true or false), "path" (~ is the home folder).
        help: what it does, in a few words.
        default: what holds without it, as people read it; the backend knows the value.
        choices: all values of a text; () = any.
        least, most: of a number; None = no bound.
    """

    name: str
    type: OptionType
    help: str
    default: str
    choices: tuple[str, ...] = ()
    least: float | None = None
    most: float | None = None

    def parse(self, text: str) -> Any:
        """str, int, float, bool or Path. Raises ConfigError for a text that means none."""
        if self.type == "switch" and text in ("true", "false"):
            return text == "true"
        if self.type == "path" and text:
            return Path(text).expanduser()
        if self.type == "text" and text and (not self.choices or text in self.choices):
            return text
        if self.type in ("integer", "number"):
            number = _number(text, whole=self.type == "integer")
            least, most = -math.inf if self.least is None else self.least, math.inf if self.most is None else self.most
            if number is not None and least <= number <= most:
                return number
        raise ConfigError(
            f"device option {self.name}={text}",
            because=f"it is {self.range_text()}",
            hint=f"the default: {self.default}",
        )

    def range_text(self) -> str:
        """The values that it takes, in words."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        words = {"switch": "true or false", "path": "a path", "text": "a text that is not empty"}
        if self.type in words:
            return words[self.type]
        kind = "a whole number" if self.type == "integer" else "a number"
        least = "" if self.least is None else f"from {self.least:g}"
        most = "" if self.most is None else f"to {self.most:g}"
        return " ".join(filter(None, (kind, least, most)))


def parse_options(device: str, specs: Sequence[OptionSpec], given: Mapping[str, str]) -> dict[str, Any]:
    """The values that were given, by name. Raises ConfigError for an unknown name or a value that means nothing."""
    known = {spec.name: spec for spec in specs}
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise ConfigError(
                f"device {device} has no option {name}",
                because=f"it has {', '.join(known)}" if known else "it has none at all",
                hint=near[0] if near else f"`quire devices {device}` lists them",
            )
    return {name: known[name].parse(text) for name, text in given.items()}


def _number(text: str, *, whole: bool) -> float | int | None:
    try:
        number = int(text) if whole else float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
