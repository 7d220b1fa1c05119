"""A folder of safetensors files: one file, or shards that an index names; what does not belong together is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from quire.errors import ModelError
from quire.weights.formats.safetensors.checkpoint import SafetensorsCheckpoint


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
