"""Packed weights kept on disk (`--device-option packed_weights=FOLDER`): a second start maps them and packs nothing.

One file per model, precision and kernel set, named by a digest of everything that decides its contents. A file is
written under a name of its own and then renamed, so that concurrent starts never see half of one; the native side
checks its checksums before it is used.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from contextlib import suppress
from pathlib import Path

from quire.errors import ConfigError
from quire_cpu import _native

logger = logging.getLogger("quire")


class PackedCache:
    """The file of one plan's weights.

    Args:
        folder: made when it does not exist.
        identity: what the weights are and how they are held.
        fingerprint: `WeightSource.fingerprint`, not empty.
    Raises: ConfigError when the folder cannot be made.
    """

    def __init__(self, folder: Path, identity: str, fingerprint: str) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"device option packed_weights={folder}", because=str(error),
                              try_="a folder that can be written to") from error
        build = Path(_native.__file__).stat()  # another build may lay panels out differently
        key = f"{identity}\n{fingerprint}\n{build.st_size} {build.st_mtime_ns}"
        self.path = folder / f"{hashlib.blake2b(key.encode(), digest_size=16).hexdigest()}.quire-packed"

    def map(self, native: _native.Plan) -> bool:
        """Gives the plan its weights from the file; False when there is none. A damaged one is removed."""
        if not self.path.exists():
            return False
        try:
            native.map_packed(str(self.path))
        except RuntimeError as error:
            logger.warning("packed weights are packed anew: %s", error)
            with suppress(OSError):
                self.path.unlink()
            return False
        logger.info("weights are mapped from %s", self.path)
        return True

    def store(self, native: _native.Plan) -> None:
        """Writes the file; a disk that cannot take it costs the next start, not this one."""
        own = self.path.with_suffix(f".{os.getpid()}-{threading.get_ident()}.tmp")
        try:
            native.write_packed(str(own))
            own.replace(self.path)
        except (RuntimeError, OSError) as error:
            logger.warning("packed weights were not kept: %s", error)
            with suppress(OSError):
                own.unlink()
