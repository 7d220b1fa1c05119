"""Packed weights kept on disk (`--device-option packed_weights=FOLDER`): a second start packs nothing.

One file per model, precision and kernel set, named by a digest of everything that decides its contents, and beside it
a signature under a key that only this user has, of the file's name and head: sizes and the checksums of all pieces,
which the native side verifies over the copy that it makes. Both files are written under names of their own and then
renamed, so that concurrent starts never see half of one. Why so: docs/decisions/024-packed-weights.md.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import shutil
import struct
import tempfile
from pathlib import Path

from quire.errors import ConfigError
from quire_cpu import _native
from quire_cpu.packed_key import packed_key
from quire_cpu.private_files import check_private_folder, open_private

logger = logging.getLogger("quire")

_HEADER = struct.Struct("=QqqQ")
_ENTRY_BYTES = 24
"""Magic, number of pieces, bytes of the file, checksum of the table; then a table entry for each piece."""


class PackedWeightsFile:
    """The file of one plan's weights.

    Args:
        folder: made when it does not exist, for this user alone.
        identity: what the weights are and how they are held.
        fingerprint: `WeightSource.fingerprint`, not empty.
    Raises: ConfigError when the folder cannot be made.
    """

    def __init__(self, folder: Path, identity: str, fingerprint: str) -> None:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"device option packed_weights={folder}", because=str(error), hint="a folder that can be written to"
            ) from error
        build = Path(_native.__file__).stat()  # another build may lay panels out differently
        key = f"{identity}\n{fingerprint}\n{build.st_size} {build.st_mtime_ns}"
        self.path = folder / f"{hashlib.blake2b(key.encode(), digest_size=16).hexdigest()}.quire-packed"
        self._signature = self.path.with_suffix(".signature")

    def map(self, native: _native.Plan) -> bool:
        """Gives the plan its weights from the file; False when there is none that can be trusted, which is said."""
        if not self.path.is_symlink() and not self.path.exists():
            return False
        try:
            check_private_folder(self.path.parent)
            descriptor = open_private(self.path)
            try:
                self._check(descriptor)
                native.map_packed(f"/dev/fd/{descriptor}")
            finally:
                os.close(descriptor)
        except (RuntimeError, OSError) as error:
            logger.warning("packed weights %s are not used, but packed anew: %s", self.path, error)
            return False
        logger.info("weights are those packed in %s", self.path)
        return True

    def store(self, native: _native.Plan) -> None:
        """Writes the file; a disk that cannot take it costs the next start, not this one."""
        try:
            check_private_folder(self.path.parent)
            key = packed_key()
            own = Path(tempfile.mkdtemp(prefix="packing-", dir=self.path.parent))  # of mode 0700
        except OSError as error:
            logger.warning("packed weights were not kept: %s", error)
            return
        try:
            native.write_packed(str(own / "packed"))
            (own / "packed").chmod(0o600)
            with (own / "packed").open("rb") as file:
                os.fsync(file.fileno())
                signed = _signature(file.fileno(), key, self.path.name)
            with os.fdopen(os.open(own / "signature", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(signed)
                file.flush()
                os.fsync(file.fileno())
            (own / "packed").replace(self.path)
            (own / "signature").replace(self._signature)
        except (RuntimeError, OSError) as error:
            logger.warning("packed weights were not kept: %s", error)
        finally:
            shutil.rmtree(own, ignore_errors=True)

    def _check(self, descriptor: int) -> None:
        """Raises PermissionError for content that was not signed by this user under this name."""
        with os.fdopen(open_private(self._signature), "rb") as file:
            signed = file.read(64)
        if not hmac.compare_digest(signed, _signature(descriptor, packed_key(), self.path.name)):
            raise PermissionError("the signature beside it is not of this content and user")


def _signature(descriptor: int, key: bytes, name: str) -> bytes:
    """Of a file's name, size and head (`csrc/plan/weight_file.cpp`) under the key."""
    size = os.fstat(descriptor).st_size
    start = os.pread(descriptor, _HEADER.size, 0)
    num_pieces = _HEADER.unpack(start)[1] if len(start) == _HEADER.size else 0
    head = os.pread(descriptor, min(_HEADER.size + max(num_pieces, 0) * _ENTRY_BYTES, size), 0)
    return hashlib.blake2b(f"{name}\n{size}\n".encode() + head, key=key, digest_size=32).digest()
