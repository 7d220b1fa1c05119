"""A file's content where nobody can change it or cut it short, and what proves where it comes from.

A file that stays mapped ends the process when somebody cuts it short, and may change after it was checked. So it is
copied into memory that is sealed against both, and what was copied is checked there.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import mmap
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from quire.device.host_cpus import available_cpus

_CHUNK_BYTES = 2**23


@contextmanager
def sealed_copy(descriptor: int, folder: Path) -> Iterator[int]:
    """A descriptor of a copy of the file, which lives as long as it is open or mapped.

    Where the system has no sealed memory it is a file of `folder` without a name. Raises OSError when it ends early.
    """
    size = os.fstat(descriptor).st_size
    if hasattr(os, "memfd_create"):
        copy = os.memfd_create("quire-packed", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    else:
        with tempfile.TemporaryFile(dir=folder) as unnamed:
            copy = os.dup(unnamed.fileno())
    try:
        os.ftruncate(copy, size)
        _copy(descriptor, copy, size)
        if hasattr(os, "memfd_create"):
            fcntl.fcntl(copy, fcntl.F_ADD_SEALS,
                        fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL)
        yield copy
    finally:
        os.close(copy)


def _copy(descriptor: int, copy: int, size: int) -> None:
    """Chunk by chunk, by all processors. Raises OSError when the file is shorter than `size`."""
    if size == 0:
        return
    with mmap.mmap(copy, size) as mapped, memoryview(mapped) as target:
        def fill(start: int) -> None:
            done, stop = start, min(start + _CHUNK_BYTES, size)
            while done < stop:
                with target[done:stop] as rest:
                    count = os.preadv(descriptor, [rest], done)
                if count == 0:
                    raise OSError("it was cut short while it was read")
                done += count

        with ThreadPoolExecutor(available_cpus()) as pool:
            list(pool.map(fill, range(0, size, _CHUNK_BYTES)))


def signature(descriptor: int, key: bytes, name: str) -> bytes:
    """Of the file's content and name under the key: chunks are digested by all processors, then their digests."""
    size = os.fstat(descriptor).st_size
    if size == 0:
        return hmac.digest(key, name.encode(), "sha256")
    with mmap.mmap(descriptor, size, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as data:
        def digest(start: int) -> bytes:
            with data[start : start + _CHUNK_BYTES] as chunk:
                return hashlib.sha256(chunk).digest()

        with ThreadPoolExecutor(available_cpus()) as pool:
            digests = b"".join(pool.map(digest, range(0, size, _CHUNK_BYTES)))
    return hmac.digest(key, f"{name}\n{size}\n".encode() + digests, "sha256")
