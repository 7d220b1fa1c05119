"""Reading GGUF: one mapped file or all parts of a split one; nothing copied.

Format, little endian: "GGUF", version u32, tensors u64, metadata u64; the metadata (key, type, value); per tensor
its name, dimensions (innermost first), type and offset; padding to `general.alignment`; the data.
Source: the GGUF specification, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from quire.errors import ModelError
from quire.files import file_of, reading
from quire.files.file_regions import FileRegions
from quire.weights.formats.gguf.block_types import BLOCK_TYPES, BlockType
from quire.weights.formats.gguf.metadata import LONGEST_NAME, Cursor, CutShort, Malformed

SUFFIX = ".gguf"
MAGIC = b"GGUF"

_VERSIONS = (2, 3)
_FIRST_BYTES, _MOST_HEAD_BYTES = 2**24, 2**30
_MOST_DIMENSIONS, _LONGEST_DIMENSION = 4, 2**40
_MOST_TENSORS, _MOST_KEYS = 2**17, 2**16  # a file may be sparse: its size says little about how much is in it
_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor of a file: `shape` outermost first, `start` the byte its data begins at."""

    kind: BlockType
    shape: tuple[int, ...]
    start: int

    @property
    def nbytes(self) -> int:
        """Bytes of its data."""
        return math.prod(self.shape) // self.kind.size * self.kind.nbytes


class GgufFile:
    """One file; tensors are read when they are asked for. There is nothing to close.

    Attributes:
        metadata: key -> value; numbers of arrays as numpy arrays, strings of arrays as a `StringArray`.
        tensors: name -> tensor, in the order of the file.
    Raises ModelError when the bytes are not what the format allows, or the file is cut short.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with reading(path):
            self._regions = FileRegions(path)
            try:
                self.metadata, self.tensors = self._read_head()
            except Malformed as error:
                raise ModelError(
                    f"{path} is not a valid GGUF file",
                    because=str(error),
                    hint="download the file again; an interrupted download is the usual cause",
                ) from error

    def blocks(self, name: str) -> np.ndarray:
        """A tensor's data, uint8 [its bytes], read-only. Raises ModelError when the file has been cut short."""
        tensor = self.tensors[name]
        return self._regions.read(tensor.start, tensor.nbytes)

    def _read_head(self) -> tuple[dict[str, Any], dict[str, StoredTensor]]:
        """What stands before the data. Its size is not known, so that more of the file is read until it is there."""
        size = self._regions.num_bytes
        wanted = _FIRST_BYTES
        while True:
            try:
                return self._read(self._regions.read(0, min(wanted, size)).tobytes())
            except CutShort:
                if wanted >= min(size, _MOST_HEAD_BYTES):
                    raise
            wanted *= 4

    def _read(self, head: bytes) -> tuple[dict[str, Any], dict[str, StoredTensor]]:
        cursor = Cursor(head)
        if head[:4] != MAGIC:
            raise Malformed(f"it begins with {head[:4]!r}, not with b'GGUF'")
        cursor.position = 4
        version = cursor.scalar(4)
        if version not in _VERSIONS:
            swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
            raise Malformed(
                "it is big endian; little-endian files are read"
                if swapped in _VERSIONS
                else f"it has version {version}; versions 2 and 3 are read"
            )
        num_tensors, num_values = cursor.count(), cursor.count()
        if num_tensors > _MOST_TENSORS or num_values > _MOST_KEYS:
            raise Malformed(
                f"it would have {num_tensors} tensors and {num_values} keys of metadata; at most "
                f"{_MOST_TENSORS} and {_MOST_KEYS} are read"
            )
        metadata: dict[str, Any] = {}
        for _ in range(num_values):
            key = cursor.string(LONGEST_NAME)
            if key in metadata:
                raise Malformed(f"the key {key:.200} is there twice")
            metadata[key] = cursor.value(int(cursor.scalar(4)))
        heads = [_tensor_head(cursor) for _ in range(num_tensors)]
        return metadata, self._place(heads, cursor.position, metadata.get("general.alignment", 32))

    def _place(
        self, heads: list[tuple[str, BlockType, tuple[int, ...], int]], end: int, alignment: Any
    ) -> dict[str, StoredTensor]:
        if not isinstance(alignment, int) or alignment < 1:
            raise Malformed(f"general.alignment is {alignment!r}")
        data_start = -(-end // alignment) * alignment
        tensors: dict[str, StoredTensor] = {}
        for name, kind, shape, offset in heads:
            tensor = StoredTensor(kind, shape, data_start + offset)
            if name in tensors:
                raise Malformed(f"the tensor {name} is there twice")
            if offset % alignment:
                raise Malformed(f"{name} begins at {offset}, which is no multiple of the alignment {alignment}")
            size = self._regions.num_bytes
            if tensor.start + tensor.nbytes > size:
                raise Malformed(
                    f"{name} ends at byte {tensor.start + tensor.nbytes}, the file has {size}; it is truncated"
                )
            tensors[name] = tensor
        return tensors


class GgufFiles:
    """A model: one file, or all parts of a split one, whose names end in `-00001-of-00003.gguf`.

    Args:
        path: the file; of a split model any of its parts.
    Attributes:
        metadata: that of the first part, which holds what describes the model.
        tensors: of all parts.
    Raises ModelError for missing or damaged parts.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        parts = [GgufFile(part) for part in part_paths(path)]
        self.metadata: Mapping[str, Any] = parts[0].metadata
        self._file_of: dict[str, GgufFile] = {}
        for part in parts:
            for name in part.tensors:
                if name in self._file_of:
                    raise ModelError(
                        f"{path}: tensor {name} is in {self._file_of[name].path.name} and in {part.path.name}",
                        because="a tensor may be stored once",
                    )
                self._file_of[name] = part
        expected = self.metadata.get("split.tensors.count")
        if len(parts) > 1 and expected is not None and expected != len(self._file_of):
            raise ModelError(
                f"{path}: its {len(parts)} parts hold {len(self._file_of)} tensors",
                because=f"the first says that there are {expected}",
                hint="parts of one and the same model",
            )
        self.tensors: Mapping[str, StoredTensor] = {name: file.tensors[name] for name, file in self._file_of.items()}

    def blocks(self, name: str) -> np.ndarray:
        """A tensor's data, uint8 [its bytes], read-only."""
        return self._file_of[name].blocks(name)


def open_gguf(path: Path) -> GgufFiles:
    """The model of a file; the one opened last is kept, since front end, graph and weights each ask for it."""
    status = path.stat() if path.is_file() else None
    return _opened(path, status and (status.st_mtime_ns, status.st_size))


@lru_cache(maxsize=1)
def _opened(path: Path, state: tuple[int, int] | None) -> GgufFiles:
    return GgufFiles(path)


def part_paths(path: Path) -> list[Path]:
    """The files of a model, in order. Raises ModelError that lists missing parts."""
    match = _PART.fullmatch(path.name)
    if match is None:
        return [path]
    count = int(match["count"])
    parts = [path.with_name(f"{match['stem']}-{number:05}-of-{count:05}.gguf") for number in range(1, count + 1)]
    absent = [part.name for part in parts if not part.is_file()]
    if absent or not parts:
        raise ModelError(
            f"{path.parent} lacks {len(absent)} of {count} parts: {', '.join(absent[:20])}",
            because=f"{path.name} is one part of a split model",
            hint="downloading the missing parts",
        )
    return [part if part == path else file_of(path.parent, part.name) for part in parts]


def is_first_part(path: Path) -> bool:
    """Whether a file is a model by itself, or the first part of one."""
    match = _PART.fullmatch(path.name)
    return match is None or int(match["number"]) == 1


def _tensor_head(cursor: Cursor) -> tuple[str, BlockType, tuple[int, ...], int]:
    """Name, type, shape and offset of the next tensor."""
    name = cursor.string(LONGEST_NAME)
    num_dimensions = int(cursor.scalar(4))
    if num_dimensions > _MOST_DIMENSIONS:
        raise Malformed(f"the tensor {name!r:.200} has {num_dimensions} dimensions")
    shape = tuple(reversed([cursor.count() for _ in range(num_dimensions)]))
    if max(shape, default=0) > _LONGEST_DIMENSION:
        raise Malformed(f"the tensor {name!r:.200} has a dimension of {max(shape)}")
    number, offset = int(cursor.scalar(4)), cursor.count()
    kind = BLOCK_TYPES.get(number)
    if kind is None:
        raise Malformed(f"the tensor {name} has type {number}, which the format did not have when this was written")
    if shape and shape[-1] % kind.size:
        raise Malformed(f"rows of {name} hold {shape[-1]} values, {kind.name} stores {kind.size} together")
    return name, kind, shape, offset
