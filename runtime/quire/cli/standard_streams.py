"""Standard input and output as commands need them: any bytes in, nothing that breaks a terminal out."""

from __future__ import annotations

import os
import sys
from typing import Any

from quire.errors import ConfigError, RequestError

_CONTROLS = {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"}
_CONTROLS[0x7F] = "\u2421"
_CONTROLS.update({code: "\u241b" + chr(code - 0x40) for code in range(0x80, 0xA0)})  # C1 is ESC and a letter
"""Characters that a terminal obeys -> what is shown for them; new lines and tabs are harmless."""


def prepare_streams() -> None:
    """What cannot be written is replaced, what cannot be read is kept as surrogates, a closed stream is no stream.

    `checked_text` tells about the surrogates.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115  (open until the process ends)
    _set_errors(sys.stdin, "surrogateescape")
    _set_errors(sys.stdout, "replace")


def _set_errors(stream: Any, errors: str) -> None:
    if hasattr(stream, "reconfigure"):  # not so where a test or a notebook put its own in the place
        stream.reconfigure(errors=errors)


def flush_output() -> None:
    """Writes what is left; where nobody takes it, what is left is dropped, so that Python's end says nothing of it."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def checked_text(text: str, what: str) -> str:
    """A text that came from the command line or standard input. Raises: RequestError where its bytes are not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        try:
            return text.encode(errors="surrogateescape").decode()  # UTF-8 that was read as something narrower
        except UnicodeError as error:
            raise RequestError(
                f"{what} is not UTF-8",
                because=str(error).replace("'utf-8' codec ", ""),
                hint="the text in UTF-8, for example through iconv",
            ) from error
    return text


def write_text(text: str) -> None:
    """Writes a model's text at once; on a terminal, control characters are shown instead of obeyed.

    Raises: BrokenPipeError, ConfigError where standard output cannot be written.
    """
    if sys.stdout.isatty():
        text = text.translate(_CONTROLS)
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise ConfigError("standard output cannot be written", because=str(error)) from error
