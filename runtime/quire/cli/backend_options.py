"""Options of backends as flags: `--NAME-KEY VALUE`, where NAME is an installed backend.

They cannot be declared to argparse, since only the backend knows its keys, and it is not imported for that.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from quire.errors import ConfigError


@dataclass(frozen=True, slots=True)
class BackendOption:
    """One flag as given; `key` has underscores, as the backend's options have."""

    flag: str
    device: str
    key: str
    value: str


def split_backend_options(
    words: Sequence[str], parser: argparse.ArgumentParser
) -> tuple[list[str], list[BackendOption]]:
    """Takes the backends' flags out of a command line; flags that the parser knows stay, and so does all after "--".

    Raises: ConfigError for a backend's flag without a value.
    """
    end = words.index("--") if "--" in words else len(words)
    known = set(flags_of(parser))
    rest: list[str] = []
    found: list[BackendOption] = []
    names: tuple[str, ...] | None = None
    pending = iter(words[:end])
    for word in pending:
        flag, equals, value = word.partition("=")
        if not flag.startswith("--") or flag in known:
            rest.append(word)
            continue
        names = _device_names() if names is None else names
        name = next((name for name in names if flag.startswith(f"--{name}-") and len(flag) > len(name) + 3), None)
        if name is None:
            rest.append(word)
            continue
        if not equals:
            value = next(pending, "")
        if not value or (not equals and value.startswith("--")):
            raise ConfigError(
                f"{flag} has no value",
                because=f"an option of device {name} is given as {flag} VALUE",
                hint=f"{flag} and its value; true or false for a switch",
            )
        found.append(BackendOption(flag, name, flag[len(name) + 3 :].replace("-", "_"), value))
    return [*rest, *words[end:]], found


def _device_names() -> tuple[str, ...]:
    """Installed backends, longest name first, so that `cpu-x` is not taken for an option of `cpu`."""
    from quire.device.registry import device_names

    return tuple(sorted(device_names(), key=len, reverse=True))


def flags_of(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Every flag of a parser and of the subcommands below it."""
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                yield from flags_of(sub)
