"""Reading one safetensors file, tensor by tensor.

Format: 8 bytes little-endian header length, a JSON header {name: {dtype, shape, data_offsets}}, the data.
Source: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from quire.errors import ModelError
from quire.files import parse_object, reading
from quire.files.file_regions import FileRegions

_MAX_HEADER_BYTES = 100_000_000
_MOST_DIMENSIONS, _LONGEST_DIMENSION = 8, 2**40
_DTYPES: Mapping[str, np.dtype[Any]] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor of a header; `start` and `stop` are byte offsets in the file."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int
    stop: int


class SafetensorsFile:
    """One file; tensors are read when they are asked for. There is nothing to close.

    Raises ModelError when the header is not what the format allows, or points outside the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with reading(path):
            self._regions = FileRegions(path)
            self.entries: Mapping[str, TensorEntry] = self._read_header(self._regions.num_bytes)

    def tensor(self, name: str) -> np.ndarray:
        """A read-only array in memory of its own. Raises ModelError when the file has been cut short."""
        entry = self.entries[name]
        return self._regions.read(entry.start, entry.stop - entry.start).view(entry.dtype).reshape(entry.shape)

    def _read_header(self, size: int) -> dict[str, TensorEntry]:
        if size < 8:
            raise self._corrupt(f"it has {size} bytes")
        length = int.from_bytes(self._regions.read(0, 8).tobytes(), "little")
        if length > min(_MAX_HEADER_BYTES, size - 8):
            raise self._corrupt(f"its header would be {length} bytes long, the file has {size}")
        header = parse_object(self._regions.read(8, length).tobytes(), f"the header of {self.path}", unique_names=True)
        header.pop("__metadata__", None)
        entries = {name: self._entry(name, value, 8 + length) for name, value in header.items()}
        self._check_coverage(entries, 8 + length, size)
        return entries

    def _entry(self, name: str, value: Any, data_start: int) -> TensorEntry:
        try:
            dtype_name, shape, (start, stop) = value["dtype"], tuple(value["shape"]), value["data_offsets"]
            whole = all(type(number) is int and number >= 0 for number in (*shape, start, stop))
        except (KeyError, TypeError, ValueError) as error:
            raise self._corrupt(f"the entry of {name:.200} has no dtype, shape and two data_offsets") from error
        if not whole:
            raise self._corrupt(f"the entry of {name:.200} has sizes that are not natural numbers")
        if len(shape) > _MOST_DIMENSIONS or max(shape, default=0) > _LONGEST_DIMENSION:
            raise self._corrupt(f"the entry of {name:.200} has more or longer dimensions than any tensor")
        if not isinstance(dtype_name, str) or dtype_name not in _DTYPES:
            raise ModelError(
                f"{self.path}: tensor {name:.200} has dtype {dtype_name!s:.100}, not supported",
                because=f"supported dtypes are {', '.join(_DTYPES)}",
            )
        dtype = _DTYPES[dtype_name]
        if stop - start != math.prod(shape) * dtype.itemsize:
            raise self._corrupt(f"{name} {list(shape)} {dtype_name} does not fill bytes {start} to {stop}")
        return TensorEntry(dtype, shape, data_start + start, data_start + stop)

    def _check_coverage(self, entries: Mapping[str, TensorEntry], data_start: int, size: int) -> None:
        """The format allows neither holes, nor overlaps, nor bytes that belong to no tensor."""
        end = data_start
        for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)):
            if entry.stop > size:
                raise self._corrupt(f"{name} ends at byte {entry.stop}, the file has {size}; it is truncated")
            if entry.start != end:
                raise self._corrupt(f"{name} starts at byte {entry.start}, the tensor before it ends at {end}")
            end = entry.stop
        if end != size:
            raise self._corrupt(f"its tensors end at byte {end}, the file has {size}")

    def _corrupt(self, because: str) -> ModelError:
        return ModelError(
            f"{self.path} is not a valid safetensors file",
            because=because,
            hint="download the file again; an interrupted download is the usual cause",
        )
