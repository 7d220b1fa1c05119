"""Files that a command writes its result to, at the end of a run that may take an hour."""

from __future__ import annotations

from pathlib import Path

from quire.errors import ConfigError


def require_writable(path: Path | None, flag: str) -> None:
    """Returns where the file can be written, or is none or "-"; leaves none behind. Raises: ConfigError."""
    if path is None or str(path) == "-":
        return
    try:
        existed = path.exists()
        with path.open("a", encoding="utf-8"):
            pass
        if not existed:
            path.unlink()
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{flag} {path} cannot be written", because=str(error), hint="a file in a folder that exists and is yours"
        ) from error


def write_result(path: Path, text: str, flag: str) -> None:
    """Writes the result. Raises: ConfigError, as on a disk that is full."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{flag} {path} cannot be written", because=str(error)) from error
