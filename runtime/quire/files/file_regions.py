"""Parts of a large file, read into memory of their own: a mapped file that is cut short ends the process (SIGBUS)."""

from __future__ import annotations

import os
from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np

from quire.errors import ModelError
from quire.files.regular_file import open_regular


class FileRegions:
    """A file that stays open, so that all that is read is of one file; there is nothing to close.

    Attributes:
        num_bytes: its size when it was opened.
    Raises ModelError as `open_regular`.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._file = path, open_regular(path)
        self.num_bytes = os.fstat(self._file.fileno()).st_size
        self._held: WeakValueDictionary[tuple[int, int], np.ndarray] = WeakValueDictionary()

    def read(self, start: int, num_bytes: int) -> np.ndarray:
        """Bytes `start` to `start + num_bytes`, uint8, read-only; what somebody still holds is not read again.

        Raises ModelError when the file has been cut short since it was opened, or cannot be read.
        """
        known = self._held.get((start, num_bytes))
        if known is not None:
            return known
        region = np.empty(num_bytes, np.uint8)
        self._fill(region.data, start)
        region.setflags(write=False)
        self._held[start, num_bytes] = region
        return region

    def _fill(self, target: memoryview, start: int) -> None:
        done = 0
        while done < len(target):
            try:
                count = os.preadv(self._file.fileno(), [target[done:]], start + done)
            except OSError as error:
                raise ModelError(
                    f"{self._path} cannot be read", because=error.strerror or str(error), hint="a disk that can be read"
                ) from error
            if count == 0:
                raise ModelError(
                    f"{self._path} was cut short while it was read",
                    because=f"it had {self.num_bytes} bytes and ends at byte {start + done} now",
                    hint="the command again, when nobody writes the file any more",
                )
            done += count
