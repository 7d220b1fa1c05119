"""Files that nobody but this user can have written: what is checked before one is believed."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def open_private(path: Path) -> int:
    """A descriptor of the file, to be read.

    Raises OSError: PermissionError for a link, for what is not a regular file, for one of another owner, and for one
    that others may read or write; FileNotFoundError.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise PermissionError(f"{path} cannot be opened: {error.strerror}") from error
    problem = _problem(os.fstat(descriptor), stat.S_ISREG, "a regular file", 0o077)
    if problem:
        os.close(descriptor)
        raise PermissionError(f"{path} {problem}")
    return descriptor


def check_private_folder(folder: Path) -> None:
    """Raises PermissionError for a folder in which others could put or change files."""
    problem = _problem(folder.stat(), stat.S_ISDIR, "a folder", 0o022)
    if problem:
        raise PermissionError(f"{folder} {problem}")


def _problem(found: os.stat_result, is_kind: object, kind: str, forbidden: int) -> str:
    assert callable(is_kind)
    if not is_kind(found.st_mode):
        return f"is not {kind}"
    if found.st_uid != os.geteuid():
        return f"belongs to user {found.st_uid}"
    if found.st_mode & forbidden:
        return f"has mode {stat.S_IMODE(found.st_mode):04o}: others may {'write' if forbidden == 0o022 else 'open'} it"
    return ""
