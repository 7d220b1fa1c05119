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
from quire.weights.safetensors_file import SafetensorsCheckpoint, SafetensorsFile


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


def shards(folder: Path) -> dict[str, str]:
    save_file({"a": np.float32([1.0])}, folder / "one.safetensors")
    save_file({"b": np.float32([2.0])}, folder / "two.safetensors")
    weight_map = {"a": "one.safetensors", "b": "two.safetensors"}
    write_index(folder, weight_map)
    return weight_map


def write_index(folder: Path, weight_map: Any) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_an_index_joins_its_shards(tmp_path: Path) -> None:
    shards(tmp_path)
    checkpoint = SafetensorsCheckpoint(tmp_path)
    assert sorted(checkpoint.names) == ["a", "b"]
    assert checkpoint.tensor("b") == 2.0
    assert "c" not in checkpoint


def test_missing_shards_are_named(tmp_path: Path) -> None:
    shards(tmp_path)
    (tmp_path / "two.safetensors").unlink()
    with pytest.raises(ModelError, match=r"1 of 2 shards: two\.safetensors"):
        SafetensorsCheckpoint(tmp_path)


def test_an_index_of_another_revision_is_refused(tmp_path: Path) -> None:
    write_index(tmp_path, {**shards(tmp_path), "c": "two.safetensors"})
    with pytest.raises(ModelError, match=r"1 tensors are not in the shard .*: c"):
        SafetensorsCheckpoint(tmp_path)


def test_an_index_without_a_map_is_refused(tmp_path: Path) -> None:
    write_index(tmp_path, 3)
    with pytest.raises(ModelError, match="weight_map"):
        SafetensorsCheckpoint(tmp_path)


def test_a_tensor_stored_twice_is_refused(tmp_path: Path) -> None:
    weight_map = shards(tmp_path)
    save_file({"a": np.float32([1.0]), "b": np.float32([2.0])}, tmp_path / "two.safetensors")
    write_index(tmp_path, weight_map)
    with pytest.raises(ModelError, match="tensor a is in"):
        SafetensorsCheckpoint(tmp_path)


def test_other_formats_are_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin") as refusal:
        SafetensorsCheckpoint(tmp_path)
    assert "save_pretrained" in refusal.value.hint


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no weights"):
        SafetensorsCheckpoint(tmp_path)
    with pytest.raises(ModelError, match="not a folder"):
        SafetensorsCheckpoint(tmp_path / "absent")


def test_several_files_need_an_index_and_one_does_not(tmp_path: Path) -> None:
    save_file({"a": np.float32([1.0])}, tmp_path / "one.safetensors")
    assert SafetensorsCheckpoint(tmp_path).tensor("a") == 1.0
    save_file({"b": np.float32([1.0])}, tmp_path / "two.safetensors")
    with pytest.raises(ModelError, match="2 safetensors files and no"):
        SafetensorsCheckpoint(tmp_path)


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
