"""The flags of every command are those of flags.txt, so that a change of them is meant.

After such a change: `python -m tests.cli.test_flags > tests/cli/flags.txt`, and look at the difference.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from quire.cli.main import COMMANDS, build_parser
from quire.engine.config import EngineConfig

SNAPSHOT = Path(__file__).with_name("flags.txt")


def commands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parsers that have no subcommands."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not below:
        yield parser
    for action in below:
        for sub in action.choices.values():
            yield from commands(sub)


def describe(parser: argparse.ArgumentParser) -> str:
    lines = [parser.prog]
    for action in parser._actions:
        names = ", ".join(action.option_strings) or f"<{action.dest}>"
        facts = [f"default {action.default!r}"] if action.default not in (None, argparse.SUPPRESS) else []
        facts += [f"one of {', '.join(map(str, action.choices))}"] if action.choices else []
        facts += ["repeated"] if isinstance(action, argparse._AppendAction) else []
        lines.append("  " + "; ".join([names, *facts]))
    return "\n".join(lines) + "\n"


def test_flags_are_the_recorded_ones() -> None:
    recorded = {section.splitlines()[0]: section for section in SNAPSHOT.read_text().split("\n\n") if section.strip()}
    now = {parser.prog: describe(parser) for parser in commands(build_parser())}
    assert sorted(now) == sorted(recorded)
    for name, text in now.items():
        assert text.strip() == recorded[name].strip()


def test_every_flag_has_a_help_text() -> None:
    for parser in commands(build_parser()):
        for action in parser._actions:
            assert action.help, f"{parser.prog} {action.option_strings or action.dest}"


@pytest.mark.parametrize("command", ["generate", "chat", "serve", "inspect"])
def test_flags_have_the_configs_names_and_defaults(command: str) -> None:
    words = [command, "a"] if command == "generate" else [command]
    args = build_parser(command).parse_args(words)
    for field in fields(EngineConfig):
        if field.name not in ("model", "device_options"):
            assert getattr(args, field.name) == field.default, field.name


def test_every_command_has_a_module() -> None:
    folder = Path(__file__).parents[2] / "runtime" / "quire" / "cli"
    assert all((folder / f"{name}.py").is_file() or (folder / name / "__init__.py").is_file() for name in COMMANDS)


if __name__ == "__main__":
    print("\n".join(describe(parser) for parser in commands(build_parser())), end="")
