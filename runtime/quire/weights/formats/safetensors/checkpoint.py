"""A checkpoint's folder of safetensors files: one, or the shards that an index names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from quire.errors import InternalError, ModelError
from quire.files import file_of, read_json_object
from quire.weights.formats.safetensors.file import SafetensorsFile, TensorEntry
from quire.weights.schemes import PLAIN, QuantizedMatrix

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
OTHER_FORMATS = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".onnx")

_MOST_SHARDS = 4096


class SafetensorsCheckpoint:
    """All tensors of a checkpoint's folder: one file, or the shards that an index names. A `CheckpointFiles`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        index = file_of(folder, INDEX_NAME)
        files = self._open_shards(index) if index.exists() else (SafetensorsFile(_single_file(folder)),)
        self._files = files
        self._file_of: dict[str, SafetensorsFile] = {}
        for file in files:
            for name in file.entries:
                if name in self._file_of:
                    raise ModelError(
                        f"{folder}: tensor {name} is in {self._file_of[name].path.name} and in {file.path.name}",
                        because="a tensor may be stored once",
                    )
                self._file_of[name] = file

    def __contains__(self, name: object) -> bool:
        return name in self._file_of

    @property
    def names(self) -> Iterable[str]:
        """Every tensor's name."""
        return self._file_of.keys()

    @property
    def paths(self) -> tuple[Path, ...]:
        """The file, or the shards."""
        return tuple(file.path for file in self._files)

    def entry(self, name: str) -> TensorEntry:
        """dtype and shape of a tensor; KeyError when there is none of that name."""
        return self._file_of[name].entries[name]

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape; KeyError when there is none of that name."""
        return self.entry(name).shape

    def dtype(self, name: str) -> np.dtype[Any]:
        """A tensor's stored dtype; KeyError when there is none of that name."""
        return self.entry(name).dtype

    @property
    def dequantized(self) -> Mapping[str, str]:
        """Nothing: see `scheme`."""
        return {}

    def scheme(self, name: str) -> str:
        """ "plain": the files say nothing of schemes. Readers of quantized formats stand over this one."""
        return PLAIN

    def quantized(self, name: str) -> QuantizedMatrix:
        """None of these tensors is quantized."""
        raise InternalError(f"{name} is asked for in integers", because="plain safetensors files hold no schemes")

    def tensor(self, name: str) -> np.ndarray:
        """A read-only array; KeyError when there is none of that name."""
        return self._file_of[name].tensor(name)

    def _open_shards(self, index: Path) -> tuple[SafetensorsFile, ...]:
        weight_map = read_json_object(index).get("weight_map")
        if (
            not isinstance(weight_map, dict)
            or not weight_map
            or not all(isinstance(shard, str) and shard for shard in weight_map.values())
        ):
            raise ModelError(
                f"{index} cannot be read",
                because="no object weight_map of files by tensor in it",
                hint="download the file again",
            )
        if len(set(weight_map.values())) > _MOST_SHARDS:
            raise ModelError(
                f"{index} names {len(set(weight_map.values()))} shards",
                because=f"at most {_MOST_SHARDS} are read",
                hint="download the file again",
            )
        shards = {shard: file_of(self.folder, shard) for shard in sorted(set(weight_map.values()))}
        absent = [shard for shard, path in shards.items() if not path.exists()]
        if absent:
            raise ModelError(
                f"{self.folder} lacks {len(absent)} of {len(shards)} shards: {', '.join(absent[:20])}",
                because=f"{INDEX_NAME} names them",
                hint="download the missing files",
            )
        files = {shard: SafetensorsFile(path) for shard, path in shards.items()}
        lost = sorted(name for name, shard in weight_map.items() if name not in files[shard].entries)
        if lost:
            raise ModelError(
                f"{self.folder}: {len(lost)} tensors are not in the shard that {INDEX_NAME} names: "
                f"{', '.join(lost[:20])}",
                because="index and shards do not belong together",
                hint="download index and shards again, from one revision",
            )
        return tuple(files.values())


def _single_file(folder: Path) -> Path:
    if not folder.is_dir():
        raise ModelError(f"{folder} is not a folder", because="a checkpoint is a folder with config.json and weights")
    single = file_of(folder, SINGLE_NAME)
    if single.exists():
        return single
    found = sorted(folder.glob("*.safetensors"))
    if len(found) == 1:
        return file_of(folder, found[0].name)
    if found:
        raise ModelError(
            f"{folder} has {len(found)} safetensors files and no {INDEX_NAME}",
            because="the index says which of them make up the checkpoint",
            hint=f"download {INDEX_NAME}",
        )
    others = sorted(path.name for path in folder.iterdir() if path.suffix in OTHER_FORMATS)
    if others:
        raise ModelError(
            f"{folder} has weights only as {', '.join(others)}",
            because="weights are read from safetensors files; the others cannot be mapped or run code",
            hint="convert it: load it with transformers and save_pretrained(folder)",
        )
    raise ModelError(
        f"{folder} has no weights",
        because="there is no .safetensors file in it",
        hint='download the weights, or use load_format="dummy" for random ones',
    )
