"""The argument parser: says what was probably meant."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Sequence
from typing import NoReturn

from quire.cli.backend_options import flags_of
from quire.cli.foreign_words import FOREIGN_COMMANDS, FOREIGN_FLAGS

_MOST_CHARACTERS = 500
"""Of a message; a command line may hold a whole book."""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors name the nearest word that it knows."""

    def error(self, message: str) -> NoReturn:
        """Prints usage and message, exits with 2."""
        meant = self._meant(message)
        shown = message if len(message) <= _MOST_CHARACTERS else f"{message[:_MOST_CHARACTERS]} ..."
        super().error(f"{shown}\ndid you mean: {meant}" if meant else shown)

    def _meant(self, message: str) -> str | None:
        if message.startswith("unrecognized arguments: "):
            flags = [word for word in message.split()[2:] if word.startswith("-")]
            return next((meant for flag in flags if (meant := meant_flag(flag, self))), None)
        choice = re.search(r"^argument (.*): invalid choice: '(.*?)' \(choose from (.*)\)", message, re.DOTALL)
        if choice is None:
            return None
        name, word, known = choice.groups()
        if name == "COMMAND" and word in FOREIGN_COMMANDS:
            return FOREIGN_COMMANDS[word]
        return next(iter(difflib.get_close_matches(word, re.findall(r"[^\s',]+", known), n=1)), None)


def meant_flag(word: str, parser: argparse.ArgumentParser) -> str | None:
    """What a flag that the parser does not know stands for; None where nothing is near."""
    flag = word.partition("=")[0]
    spelled = flag.replace("_", "-") if flag.startswith("--") else flag
    if spelled in FOREIGN_FLAGS:
        return FOREIGN_FLAGS[spelled]
    if not spelled.startswith("--"):
        return None
    return next(iter(difflib.get_close_matches(spelled[:100].lower(), list(flags_of(parser)), n=1)), None)


def refuse_foreign_flags(words: Sequence[str], parser: argparse.ArgumentParser) -> None:
    """Exits with 2 for a flag of another program; argparse would read `-ngl 99` as `-n gl`."""
    known = set(flags_of(parser))
    end = words.index("--") if "--" in words else len(words)
    for word in words[:end]:
        flag = word.partition("=")[0]
        if flag in FOREIGN_FLAGS and flag not in known:
            parser.error(f"unrecognized arguments: {flag}")
