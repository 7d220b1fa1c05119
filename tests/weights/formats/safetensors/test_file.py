"""Tensors are read into memory of their own; damaged files are refused with the reason."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from quire.errors import ModelError
from quire.weights.formats.safetensors.checkpoint import SafetensorsCheckpoint
from quire.weights.formats.safetensors.file import SafetensorsFile


def write(path: Path, header: Any, data: bytes, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def entry(start: int, stop: int, *shape: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}


def test_arrays_are_read_only(tmp_path: Path) -> None:
    tensors = {
        "b": np.arange(6, dtype=np.float32).reshape(2, 3).astype(ml_dtypes.bfloat16),
        "a": np.arange(4, dtype=np.int64),
        "f": np.float16([[1.5]]),
        "empty": np.zeros((0, 3), np.float32),
    }
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    file = SafetensorsFile(tmp_path / "model.safetensors")
    assert set(file.entries) == set(tensors)
    for name, expected in tensors.items():
        array = file.tensor(name)
        assert array.dtype == expected.dtype
        np.testing.assert_array_equal(array, expected)
        assert not array.flags.writeable


@pytest.mark.parametrize(
    ("header", "data", "length", "reason"),
    [
        (b"", b"", None, "not JSON"),
        ({}, b"", 1000, "header would be 1000 bytes"),
        ([], b"", None, "not hold a JSON object"),
        ({"a": {"dtype": "F32"}}, b"", None, "the entry of a"),
        ({"a": entry(0, 8, 3)}, b"\0" * 8, None, "does not fill"),
        ({"a": entry(0, -4, -1)}, b"", None, "natural numbers"),
        ({"a": entry(0, 8, 2)}, b"\0" * 4, None, "truncated"),
        ({"a": entry(0, 4, 1)}, b"\0" * 8, None, "its tensors end"),
        ({"a": entry(0, 8, 2), "b": entry(4, 12, 2)}, b"\0" * 12, None, "b starts at byte"),
        ({"a": entry(0, 4, 1), "b": entry(8, 12, 1)}, b"\0" * 12, None, "b starts at byte"),
        ({"a": entry(0, 4, 1, dtype="F4")}, b"\0" * 4, None, "dtype F4"),
    ],
)
def test_a_damaged_file_is_refused(header: Any, data: bytes, length: int | None, reason: str, tmp_path: Path) -> None:
    path = write(tmp_path / "model.safetensors", header, data, length)
    with pytest.raises(ModelError, match=reason):
        SafetensorsFile(path)


@pytest.mark.parametrize("size", [0, 5])
def test_a_file_without_a_header_is_refused(size: int, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"\0" * size)
    with pytest.raises(ModelError, match=f"it has {size} bytes"):
        SafetensorsFile(tmp_path / "model.safetensors")


def test_a_file_cut_short_after_it_was_opened(tmp_path: Path) -> None:
    """A mapping of it would end the process."""
    values = np.arange(4 << 20, dtype=np.float32)
    save_file({"w": values}, tmp_path / "model.safetensors")
    file, checkpoint = SafetensorsFile(tmp_path / "model.safetensors"), SafetensorsCheckpoint(tmp_path)
    array = file.tensor("w")
    os.truncate(tmp_path / "model.safetensors", 5_000_000)
    np.testing.assert_array_equal(array, values)
    with pytest.raises(ModelError, match=r"was cut short while it was read\n.* and ends at byte 5000000 now"):
        checkpoint.tensor("w")


def test_what_is_held_is_not_read_again(tmp_path: Path) -> None:
    save_file({"w": np.arange(8, dtype=np.float32)}, tmp_path / "model.safetensors")
    file = SafetensorsFile(tmp_path / "model.safetensors")
    part = file.tensor("w")[2:4]
    assert np.shares_memory(part, file.tensor("w"))
