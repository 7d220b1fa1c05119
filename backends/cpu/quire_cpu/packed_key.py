"""The key by which this user's packed weights are told from others': a file of random bytes that only they can read."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from quire_cpu.private_files import open_private

_KEY_BYTES = 32


def packed_key() -> bytes:
    """The key, made at its first use. Raises OSError where the user's cache folder cannot keep one."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "quire"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / "packed.key"
    if not path.is_symlink() and not path.exists():
        _make(path)
    with os.fdopen(open_private(path), "rb") as file:
        key = file.read(_KEY_BYTES + 1)
    if len(key) != _KEY_BYTES:
        raise PermissionError(f"{path} does not hold a key of {_KEY_BYTES} bytes; without the file a new one is made")
    return key


def _make(path: Path) -> None:
    """Under a name of its own, then linked: of several starts at once one makes the key, and none sees half of it."""
    own = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    descriptor = os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(_KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(own, path)
    finally:
        own.unlink()
