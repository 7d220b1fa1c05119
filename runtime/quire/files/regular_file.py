"""Opening and reading a model's files: regular ones only, of bounded size, as UTF-8."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from quire.errors import ModelError

MOST_TEXT_BYTES = 2**28
"""Of a file that is read whole. The largest tokenizer.json in use has 34 MB, the largest index some 20."""

_AGAIN = "downloading the file again"
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def open_regular(path: Path) -> BinaryIO:
    """The file, opened to be read. Raises ModelError for one that is absent, that may not be read, or that is a
    folder, a pipe or a device: opening a pipe would wait for a writer for ever, and a device has no end."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read", because=_reason(error), hint=_AGAIN) from error
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        kind = next((name for is_kind, name in _KINDS if is_kind(mode)), "something else")
        raise ModelError(f"{path} is not a file", because=f"it is {kind}", hint=_AGAIN)
    return os.fdopen(descriptor, "rb")


def read_bytes(path: Path, most_bytes: int = MOST_TEXT_BYTES) -> bytes:
    """The whole content. Raises ModelError as `open_regular`, and for a file of more than `most_bytes`."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most_bytes:
            raise ModelError(
                f"{path} has {size} bytes", because=f"files of its kind are read up to {most_bytes}", hint=_AGAIN
            )
        try:
            return file.read(most_bytes)
        except OSError as error:
            raise ModelError(f"{path} cannot be read", because=_reason(error), hint=_AGAIN) from error


def read_text(path: Path, most_bytes: int = MOST_TEXT_BYTES) -> str:
    """The whole content as text. Raises ModelError as `read_bytes`, and names the first byte that is no UTF-8."""
    content = read_bytes(path, most_bytes)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ModelError(
            f"{path} is not a text in UTF-8", because=f"byte {error.start} is {content[error.start]:#04x}", hint=_AGAIN
        ) from error


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
