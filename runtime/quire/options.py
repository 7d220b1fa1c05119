"""An option is one field of a frozen dataclass: default, help, check, flag and other names stand beside it.

The command line, the checks, the table of the documentation and the names that vLLM has for the same all come from
there: to add an option is to write one field.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

from quire.errors import ConfigError
from quire.field_ranges import INT32_MAX, shown


class Check(Protocol):
    """What values an option takes."""

    @property
    def kind(self) -> type:
        """Type of the value on a command line."""

    def __call__(self, name: str, value: Any) -> Any:
        """The value to keep. Raises ConfigError that names the option."""


@dataclass(frozen=True, slots=True)
class Text:
    """A text that is not empty: an empty one is a mistake, such as a shell variable that is not set. Paths are taken.

    Args:
        short: other words for the same, word -> what is kept. choices: all that there are; () = any text.
    """

    choices: tuple[str, ...] = ()
    short: Mapping[str, str] = field(default_factory=dict)
    kind: type = str

    def __call__(self, name: str, value: Any) -> str:
        text = os.fspath(value) if isinstance(value, os.PathLike) else value
        if not isinstance(text, str) or not text:
            raise ConfigError(
                f"{name}={value!r}", because="it is a text that is not empty", hint=f"{name} left out, or a text"
            )
        text = self.short.get(text, text)
        if self.choices and text not in self.choices:
            raise ConfigError(
                f"{name}={text!r}", because="it is not one Quire knows", hint=f"one of {', '.join(self.choices)}"
            )
        return text


@dataclass(frozen=True, slots=True)
class Switch:
    """On or off."""

    kind: type = bool

    def __call__(self, name: str, value: Any) -> bool:
        if not isinstance(value, bool):
            raise ConfigError(f"{name}={value!r}", because="it is on or off", hint="True or False")
        return value


@dataclass(frozen=True, slots=True)
class Count:
    """A whole number from `least` to `most`."""

    least: int
    most: int = INT32_MAX
    because: str = "it is a count"
    kind: type = int

    def __call__(self, name: str, value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not self.least <= value <= self.most:
            raise ConfigError(
                f"{name}={shown(value)}",
                because=self.because,
                hint=f"a whole number of at least {self.least} and at most {self.most}",
            )
        return value


@dataclass(frozen=True, slots=True)
class Share:
    """A part of a whole: above 0, at most 1."""

    of: str
    kind: type = float

    def __call__(self, name: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
            raise ConfigError(
                f"{name}={value!r}", because=f"it is a share of {self.of}", hint="a value in (0, 1], for example 0.9"
            )
        return float(value)


@dataclass(frozen=True, slots=True)
class Seconds:
    """A time of at least `least` seconds, and more than 0, up to a day; `or_zero`: also 0, which stands for ever."""

    least: float = 0.0
    or_zero: bool = False
    kind: type = float

    def __call__(self, name: str, value: Any) -> float:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not (max(self.least, 1e-9) <= value <= 86400 or (self.or_zero and value == 0)):
            least = f"a number of at least {self.least:g}" if self.least else "a number above 0"
            raise ConfigError(
                f"{name}={value!r}",
                because="it is a number of seconds, up to a day",
                hint=f"{least}{', or 0 to wait for ever' if self.or_zero else ''}",
            )
        return float(value)


@dataclass(frozen=True, slots=True)
class Texts:
    """Names and values, such as {'threads': '4'}; values become texts, as a command line gives them."""

    kind: type = dict

    def __call__(self, name: str, value: Any) -> dict[str, str]:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{name}={value!r}", because="they have names", hint="a mapping such as {'threads': '4'}")
        return {key: str(given).lower() if isinstance(given, bool) else str(given) for key, given in value.items()}


@dataclass(frozen=True, slots=True)
class Option:
    """What stands beside a field.

    Attributes:
        help: what it means, for `--help` and the documentation.
        check: what values it takes.
        default_text: what the default is, where it is None and somebody chooses.
        flag: the long flag; "" = none, "--name-of-the-field" unless it is said.
        short: a short flag. metavar: what the help calls the value.
        aliases: names in vLLM; they are flags too, and words of `LLM(...)`.
        is_listed: the value is one of `choices` for argparse too, which then says so itself.
    """

    help: str
    check: Check
    default_text: str = ""
    flag: str | None = None
    short: str = ""
    metavar: str | None = None
    aliases: tuple[str, ...] = ()
    is_listed: bool = False


def option(default: Any, help: str, check: Check, **beside: Any) -> Any:
    """A dataclass field with an `Option` of these parts. `default` may be a function that makes one, as `dict`."""
    metadata = {"option": Option(help, check, **beside)}
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True)
class NamedOption:
    """An option with its field's name and default."""

    name: str
    default: Any
    option: Option

    @property
    def flag(self) -> str:
        """The long flag, "" = it has none."""
        return f"--{self.name.replace('_', '-')}" if self.option.flag is None else self.option.flag

    @property
    def flags(self) -> tuple[str, ...]:
        """All of them, short ones first."""
        aliases = (f"--{alias.replace('_', '-')}" for alias in self.option.aliases)
        return tuple(filter(None, (self.option.short, self.flag, *aliases)))


def options_of(config: type) -> Iterator[NamedOption]:
    """The options of a dataclass, in the order of its fields."""
    for item in fields(config):
        if "option" in item.metadata:
            yield NamedOption(item.name, item.default, item.metadata["option"])


def check_options(config: Any) -> None:
    """Checks every option of a frozen dataclass, from its `__post_init__`, and keeps what the checks give.

    None stays None where it is the default. Raises ConfigError that names the option.
    """
    for item in options_of(type(config)):
        value = getattr(config, item.name)
        if value is None and item.default is None:
            continue
        object.__setattr__(config, item.name, item.option.check(item.name, value))


def aliases_of(config: type) -> dict[str, str]:
    """vLLM's name -> the field that means the same."""
    return {alias: item.name for item in options_of(config) for alias in item.option.aliases}


def add_flags(parser: argparse._ActionsContainer, config: type) -> None:
    """A flag for every option that has one; its destination is the field's name, its default the field's."""
    for item in options_of(config):
        if not item.flag:
            continue
        shape: dict[str, Any] = {"dest": item.name, "help": item.option.help, "default": item.default}
        if item.option.default_text:
            shape["help"] += f"; default: {item.option.default_text}"
        if item.option.check.kind is bool:
            shape["action"] = argparse.BooleanOptionalAction if item.default else "store_true"
        else:
            shape["type"] = item.option.check.kind if item.option.check.kind is not str else None
            shape["metavar"] = item.option.metavar
            if item.option.is_listed:
                shape["choices"] = getattr(item.option.check, "choices", None)
        parser.add_argument(*item.flags, **{key: value for key, value in shape.items() if value is not None})


def options_table(config: type) -> list[str]:
    """Rows of a Markdown table: flags, meaning, default."""
    rows = ["| flag | meaning | default |", "|---|---|---|"]
    for item in options_of(config):
        if not item.flag:
            continue
        flags = ", ".join(f"`{flag}`" for flag in item.flags)
        if item.option.check.kind is bool and item.default:
            flags = f"`--no-{item.flag.removeprefix('--')}`"
        default = item.option.default_text or {None: "none", True: "on", False: "off"}.get(item.default, item.default)
        rows.append(f"| {flags} | {item.option.help.replace('|', chr(92) + '|')} | {default} |")
    return rows
