"""Safetensors checkpoints whose matrices are integers, offered under the names of the weights they stand for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from quire.errors import InternalError, ModelError
from quire.weights.formats.quantized.grouped_integers import GroupedIntegers
from quire.weights.formats.safetensors.checkpoint import SafetensorsCheckpoint
from quire.weights.schemes import PLAIN, QuantizedMatrix, WeightScheme

FLOAT_DTYPES = (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16), np.dtype(np.float32))


@dataclass(frozen=True, slots=True, eq=False)
class StoredMatrix:
    """One matrix of a checkpoint.

    Attributes:
        shape: outputs and inputs.
        tensors: names of the tensors that hold it.
        read: its integers; called anew whenever the matrix is asked for.
        scheme: of `QuantizedSafetensors.quantized`; None = floats of `dtype`, for the reason `why_plain`.
        dtype: of its scales.
    """

    shape: tuple[int, int]
    tensors: tuple[str, ...]
    read: Callable[[], GroupedIntegers]
    scheme: WeightScheme | None
    dtype: np.dtype[Any]
    why_plain: str = ""


class QuantizedSafetensors:
    """`CheckpointFiles` over safetensors files and what a format's reader found in them.

    Args:
        matrices: by the name of the weight ("model.layers.0.mlp.up_proj.weight").
        unused: further tensors that do not appear.
    """

    def __init__(
        self,
        files: SafetensorsCheckpoint,
        matrices: Mapping[str, StoredMatrix],
        unused: Collection[str] = (),
    ) -> None:
        self._files, self._matrices = files, matrices
        twice = [name for name, matrix in matrices.items() if name in files and name not in matrix.tensors]
        if twice:
            raise ModelError(
                f"{files.folder} holds {', '.join(twice[:20])} as floats and as integers",
                because="a weight is stored once",
                hint="download the checkpoint again, of one revision",
            )
        weight_of = {tensor: name for name, matrix in matrices.items() for tensor in matrix.tensors}
        names = (weight_of.get(name, name) for name in files.names if name not in unused)
        self._names = dict.fromkeys(names)

    @property
    def names(self) -> Iterable[str]:
        """Every tensor's name."""
        return self._names.keys()

    @property
    def paths(self) -> tuple[Path, ...]:
        """The file, or the shards."""
        return self._files.paths

    @property
    def dequantized(self) -> Mapping[str, str]:
        """Why a matrix of integers has no scheme, by the name of the weight."""
        return {name: matrix.why_plain for name, matrix in self._matrices.items() if matrix.scheme is None}

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape; of a quantized matrix the one it stands for. Raises ModelError for an unknown name."""
        matrix = self._matrix(name)
        return self._files.entry(name).shape if matrix is None else matrix.shape

    def dtype(self, name: str) -> np.dtype[Any]:
        """The stored dtype; float32 for a quantized matrix, its scales' for one that has no scheme."""
        matrix = self._matrix(name)
        if matrix is None:
            return self._files.entry(name).dtype
        return matrix.dtype if matrix.scheme is None else np.dtype(np.float32)

    def tensor(self, name: str) -> np.ndarray:
        """The array of a mapped file; a matrix of integers is computed in the dtype that `dtype` says."""
        matrix = self._matrix(name)
        return self._files.tensor(name) if matrix is None else matrix.read().dense(self.dtype(name))

    def scheme(self, name: str) -> str:
        """ "plain" or the scheme's name."""
        matrix = self._matrix(name)
        return PLAIN if matrix is None or matrix.scheme is None else matrix.scheme.name

    def quantized(self, name: str) -> QuantizedMatrix:
        """A matrix whose `scheme` is not plain, in integers."""
        matrix = self._matrix(name)
        if matrix is None or matrix.scheme is None:
            raise InternalError(f"{name} is plain and was asked for in integers")
        return matrix.read().matrix(matrix.scheme)

    def _matrix(self, name: str) -> StoredMatrix | None:
        if name not in self._names:
            raise ModelError(f"{self._files.folder} has no tensor {name}")
        return self._matrices.get(name)


class StoredModule:
    """The tensors `<module>.<suffix>` of one linear layer, each checked as it is asked for.

    Every access raises ModelError by name for a tensor that is absent or not of a dtype or shape that fits.
    """

    def __init__(self, files: SafetensorsCheckpoint, name: str) -> None:
        self.files, self.name = files, name

    def has(self, suffix: str) -> bool:
        """Whether the tensor is there."""
        return f"{self.name}.{suffix}" in self.files

    def shape(self, suffix: str, dtypes: Collection[Any], dimensions: int = 2) -> tuple[int, ...]:
        """Shape of a tensor that has one of the dtypes and so many dimensions."""
        if not self.has(suffix):
            raise self.wrong(f"there is no {self.name}.{suffix}")
        entry = self.files.entry(f"{self.name}.{suffix}")
        if entry.dtype not in [np.dtype(dtype) for dtype in dtypes]:
            raise self.wrong(f"{suffix} is {entry.dtype}, not {' or '.join(str(np.dtype(dtype)) for dtype in dtypes)}")
        if len(entry.shape) != dimensions:
            raise self.wrong(f"{suffix} is {list(entry.shape)}, of {len(entry.shape)} dimensions, not {dimensions}")
        return entry.shape

    def expect(self, suffix: str, dtypes: Collection[Any], shape: tuple[int, ...]) -> None:
        """Refuses a tensor of another dtype or shape."""
        found = self.shape(suffix, dtypes, len(shape))
        if found != shape:
            raise self.wrong(f"{suffix} is {list(found)}, the other tensors make it {list(shape)}")

    def dtype(self, suffix: str) -> np.dtype[Any]:
        """A tensor's dtype."""
        return self.files.entry(f"{self.name}.{suffix}").dtype

    def tensor(self, suffix: str) -> np.ndarray:
        """A view of the mapped file."""
        return self.files.tensor(f"{self.name}.{suffix}")

    def names(self, *suffixes: str) -> tuple[str, ...]:
        """Full names of those tensors that are there."""
        return tuple(f"{self.name}.{suffix}" for suffix in suffixes if self.has(suffix))

    def wrong(self, because: str) -> ModelError:
        """The error for tensors that do not make a matrix."""
        return ModelError(
            f"{self.files.folder}: the quantized layer {self.name} cannot be read",
            because=because,
            hint="download weights and config.json again, of one revision",
        )


def modules_with(files: SafetensorsCheckpoint, suffix: str) -> list[StoredModule]:
    """The modules that have a tensor of that suffix, in the order of the files."""
    return [StoredModule(files, name.removesuffix(f".{suffix}")) for name in files.names if name.endswith(f".{suffix}")]


def contiguous_groups(group_of: np.ndarray, group_size: int, module: StoredModule, groups: int) -> np.ndarray | None:
    """The order of groups when every `group_size` consecutive inputs share one; None when they are scattered."""
    if group_of.min(initial=0) < 0 or group_of.max(initial=0) >= groups:
        raise module.wrong(f"g_idx has groups {group_of.min()} to {group_of.max()}, there are scales for {groups}")
    order = group_of[:: group_size or len(group_of)]
    repeated = np.repeat(order, group_size or len(group_of))[: len(group_of)]
    return order if np.array_equal(group_of, repeated) else None
