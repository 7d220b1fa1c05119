"""The folder of an engine's sockets: short, the user's own, and gone when its server is, however that ended.

A UNIX socket's path has at most 107 bytes (103 on macOS), so that a long TMPDIR cannot hold it. A lock on a file in
the folder lives as long as the process that made it; a folder whose lock can be taken belongs to nobody any more.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from quire.errors import ConfigError

PREFIX = "quire-ipc-"
LOCK = "lock"
MOST_PATH_BYTES = 100
"""Of a socket in the folder."""

_LONGEST_NAME = f"{PREFIX}12345678/requests"
_UNLOCKED_AGE_S = 3600.0
"""A folder without a lock file is one that was being made; after so long nobody makes it any more."""


class SocketFolder:
    """A folder of mode 0700 with a lock; made with the object. Folders that killed servers left are removed first.

    Raises: ConfigError when no folder can be made.
    """

    def __init__(self) -> None:
        problems: list[str] = []
        for root in _roots():
            if len(os.fsencode(root / _LONGEST_NAME)) > MOST_PATH_BYTES:
                problems.append(f"{root} is too long a path for a socket")
                continue
            try:
                remove_stale_folders(root)
                self.path, self._lock_fd = _make(root)
                return
            except OSError as error:
                problems.append(f"{root}: {error.strerror or error}")
        raise ConfigError(
            "there is no folder for the engine's sockets",
            because="; ".join(problems),
            hint="TMPDIR set to a short path of a folder that can be written, with room left",
        )

    def close(self) -> None:
        """Removes it; safe to call twice."""
        if self._lock_fd >= 0:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock_fd)
            self._lock_fd = -1


def remove_stale_folders(root: Path) -> None:
    """Removes what this user's killed servers left in `root`. Folders of others and of living servers stay."""
    for folder in root.glob(f"{PREFIX}*"):
        try:
            status = folder.lstat()
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
                continue
            _remove_if_stale(folder, status)
        except OSError:
            continue  # its server lives, another one removes it at this moment, or it is not ours to remove


def _remove_if_stale(folder: Path, status: os.stat_result) -> None:
    try:
        lock_fd = os.open(folder / LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        if time.time() - status.st_mtime > _UNLOCKED_AGE_S:
            shutil.rmtree(folder, ignore_errors=True)
        return
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)  # with the lock held, so that nobody who is making it may go on
    finally:
        os.close(lock_fd)


def _make(root: Path) -> tuple[Path, int]:
    """A new locked folder and the lock's descriptor."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=root))
        lock_fd = -1
        try:
            lock_fd = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(lock_fd).st_nlink:
                return folder, lock_fd
        except (BlockingIOError, FileNotFoundError):
            pass  # a server that starts at this moment took it for a stale one: another folder
        except OSError:
            if lock_fd >= 0:
                os.close(lock_fd)
            shutil.rmtree(folder, ignore_errors=True)
            raise
        if lock_fd >= 0:
            os.close(lock_fd)
        shutil.rmtree(folder, ignore_errors=True)


def _roots() -> Iterator[Path]:
    """Where it may be, in order; the first ones are the user's words."""
    seen = set()
    for name in (os.environ.get("TMPDIR"), os.environ.get("XDG_RUNTIME_DIR"), "/tmp", "/var/tmp", "/dev/shm"):
        if name and os.path.isabs(name) and name not in seen and os.path.isdir(name):
            seen.add(name)
            yield Path(name)
