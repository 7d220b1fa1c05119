"""Where API keys come from: a file, the environment, or the command line, which every local user can read."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from quire.errors import ConfigError

logger = logging.getLogger("quire")

VARIABLE = "QUIRE_API_KEY"

MAX_FILE_BYTES = 1 << 20


def api_keys(given: Sequence[str], file: str | None, environment: Mapping[str, str]) -> tuple[str, ...]:
    """All keys, without duplicates: those of the command line, of the file, and of $QUIRE_API_KEY.

    Warns of what others can read. Raises ConfigError for an empty key or a file that cannot be read.
    """
    if given:
        logger.warning("--api-key can be read in the list of processes; use --api-key-file or $%s", VARIABLE)
    keys = [_checked(key, "--api-key") for key in given]
    if file is not None:
        keys += keys_of_file(Path(file))
    if VARIABLE in environment:
        keys.append(_checked(environment[VARIABLE], f"${VARIABLE}"))
    return tuple(dict.fromkeys(keys))


def keys_of_file(path: Path) -> list[str]:
    """One key a line; empty lines and lines that begin with # are left out."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(MAX_FILE_BYTES + 1)
        text = content.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"--api-key-file {path}", because=str(error), hint="a text file with one key a line"
        ) from None
    if len(content) > MAX_FILE_BYTES:
        raise ConfigError(
            f"--api-key-file {path}", because="it is larger than a mebibyte", hint="a text file with one key a line"
        )
    if mode & (stat.S_IRGRP | stat.S_IROTH):
        logger.warning("%s can be read by other users (mode %o); chmod 600 keeps the keys yours", path, mode & 0o777)
    lines = [line.strip() for line in text.splitlines()]
    keys = [_checked(line, f"--api-key-file {path}") for line in lines if line and not line.startswith("#")]
    if not keys:
        raise ConfigError(
            f"--api-key-file {path} holds no key",
            because="the server would be open to everybody",
            hint="one key a line",
        )
    return keys


def _checked(key: str, source: str) -> str:
    """The key as clients send it; a header's value has no white space around it, and no control characters."""
    key = key.strip()
    if not key:
        raise ConfigError(f"{source} holds an empty key", because="anybody could send it", hint="a long random text")
    if any(ord(character) < 32 or ord(character) == 127 for character in key):
        raise ConfigError(
            f"{source} holds a key with control characters", because="no header can hold it", hint="a long random text"
        )
    return key
