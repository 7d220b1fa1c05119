"""Metadata values of a GGUF file: read where they lie, long arrays decoded only when somebody looks at them."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, overload

import numpy as np

_SCALARS: Mapping[int, struct.Struct] = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: struct.Struct("<I"),
    5: struct.Struct("<i"),
    6: struct.Struct("<f"),
    7: struct.Struct("<?"),
    10: struct.Struct("<Q"),
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}
"""Type of a value -> its layout; 8 is a string and 9 an array."""

_STRING, _ARRAY = 8, 9
_LENGTH = struct.Struct("<Q")
_DEEPEST_ARRAY = 4
LONGEST_NAME = 2**16
_LONGEST_STRING = 2**26
_LONGEST_ARRAY, _MOST_STRINGS, _MOST_ARRAYS = 2**24, 2**22, 2**12
"""Bounds, because a sparse file costs its maker nothing: the largest vocabularies have 2**18 tokens, and the largest
text, a whole tokenizer.json, 34 MB."""


class Malformed(Exception):
    """What is wrong with the bytes; the file that knows its name turns it into a ModelError."""


class CutShort(Malformed):
    """The bytes end too early; with more of the file they may not."""


class Bytes(Protocol):
    """A mapped file."""

    def __len__(self) -> int: ...

    @overload
    def __getitem__(self, index: int) -> int: ...

    @overload
    def __getitem__(self, index: slice) -> bytes: ...


class StringArray(Sequence[str]):
    """Strings of a mapped file: `offsets` are where their lengths lie. Bytes that are no UTF-8 become U+FFFD."""

    def __init__(self, mapped: Bytes, offsets: list[int]) -> None:
        self._mapped, self._offsets = mapped, offsets

    def __len__(self) -> int:
        return len(self._offsets)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self._decode(offset) for offset in self._offsets[index]]
        return self._decode(self._offsets[index])

    def __iter__(self) -> Iterator[str]:
        data, unpack = self._mapped, _LENGTH.unpack_from
        starts = [offset + 8 for offset in self._offsets]
        stops = [start + unpack(data, start - 8)[0] for start in starts]  # type: ignore[arg-type]
        return (data[start:stop].decode("utf-8", "replace") for start, stop in zip(starts, stops, strict=True))

    def _decode(self, offset: int) -> str:
        start = offset + 8
        (length,) = _LENGTH.unpack_from(self._mapped, offset)  # type: ignore[arg-type]
        return self._mapped[start : start + length].decode("utf-8", errors="replace")


class Cursor:
    """Reads one value after the other. Every method raises `Malformed` at the end of the file."""

    def __init__(self, mapped: Bytes, position: int = 0) -> None:
        self.mapped, self.position = mapped, position

    def scalar(self, kind: int) -> Any:
        """A number or a flag of one of the scalar types."""
        layout = _SCALARS[kind]
        self._require(layout.size)
        (value,) = layout.unpack_from(self.mapped, self.position)  # type: ignore[arg-type]
        self.position += layout.size
        return value

    def count(self) -> int:
        """An unsigned number of 64 bits."""
        return int(self.scalar(10))

    def string(self, longest: int = _LONGEST_STRING) -> str:
        """A length, of at most `longest`, and that many bytes."""
        length = self.count()
        if length > longest:
            raise Malformed(f"the text at byte {self.position} would have {length} bytes")
        self._require(length)
        start, self.position = self.position, self.position + length
        return self.mapped[start : self.position].decode("utf-8", errors="replace")

    def value(self, kind: int, depth: int = 0) -> Any:
        """A value of any type: numbers of an array as a numpy view, strings of one as a `StringArray`."""
        if kind in _SCALARS:
            return self.scalar(kind)
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY or depth >= _DEEPEST_ARRAY:
            raise Malformed(f"a value at byte {self.position} has type {kind}, which the format does not have")
        element, count = int(self.scalar(4)), self.count()
        if count > {_STRING: _MOST_STRINGS, _ARRAY: _MOST_ARRAYS}.get(element, _LONGEST_ARRAY):
            raise Malformed(f"the array at byte {self.position} would have {count} values")
        if element in _SCALARS:
            dtype = np.dtype(_SCALARS[element].format)
            self._require(count * dtype.itemsize)
            start, self.position = self.position, self.position + count * dtype.itemsize
            return np.frombuffer(self.mapped, dtype, count, start)  # type: ignore[call-overload]
        self._require(count * 8)
        if element == _STRING:
            return self._strings(count)
        return [self.value(element, depth + 1) for _ in range(count)]

    def _strings(self, count: int) -> StringArray:
        mapped, position, size, unpack = self.mapped, self.position, len(self.mapped), _LENGTH.unpack_from
        offsets = []
        try:
            for _ in range(count):
                offsets.append(position)
                position += 8 + unpack(mapped, position)[0]  # type: ignore[arg-type]
        except (struct.error, OverflowError):  # the second for positions that no file has
            raise CutShort(f"it ends at byte {size}, inside an array of {count} strings") from None
        if position - self.position > _LONGEST_STRING:
            raise Malformed(f"the {count} texts at byte {self.position} would have {position - self.position} bytes")
        self.position = position
        self._require(0)
        return StringArray(mapped, offsets)

    def _require(self, num_bytes: int) -> None:
        if self.position + num_bytes > len(self.mapped):
            raise CutShort(
                f"it ends at byte {len(self.mapped)}, inside something that needs byte {self.position + num_bytes}"
            )
