"""The weights of a GGUF file under the names, shapes and orders in which transformers publishes them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from quire.errors import InternalError, ModelError
from quire.weights.formats.gguf.block_types import READABLE
from quire.weights.formats.gguf.blocks import PLAIN_DTYPES, dequantize_rows, to_matrix
from quire.weights.formats.gguf.config import gguf_config
from quire.weights.formats.gguf.gguf_file import StoredTensor, open_gguf, part_paths
from quire.weights.formats.gguf.names import IGNORED, NameTable, TensorName, transformers_name
from quire.weights.schemes import PLAIN, QuantizedMatrix

logger = logging.getLogger("quire")

_FLOAT32 = np.dtype(np.float32)


@dataclass(frozen=True, slots=True)
class _Entry:
    """A published tensor: which stored one it is, and of one that holds all experts which of them."""

    stored: str
    block_name: str
    expert: int | None = None


class GgufCheckpoint:
    """`CheckpointFiles` over a GGUF model.

    Rows that were reordered for llama.cpp's rotary and constants that were added to norms are put back. Quantized
    matrices keep their integers in the scheme that `BlockType.scheme` names; types that no scheme holds are rounded
    again, and a log line says how many.

    Args:
        path: the file; of a split model any part.
    Raises ModelError for a damaged file, an unsupported architecture, or a tensor type that is not read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files = open_gguf(path)
        found = gguf_config(self._files)
        self._config: Mapping[str, Any] = found.config
        self._table: NameTable = found.names
        self._entries: dict[str, _Entry] = {}
        for stored in self._files.tensors:
            if not IGNORED.fullmatch(stored):
                self._add(stored, transformers_name(self._table, stored))
        self._refuse_unread()
        self._announce()

    @property
    def names(self) -> Iterable[str]:
        """Every tensor, in the order of the files; one for each expert."""
        return self._entries.keys()

    @property
    def paths(self) -> tuple[Path, ...]:
        """The file, or the parts of a split model."""
        return tuple(part_paths(self.path))

    @property
    def dequantized(self) -> Mapping[str, str]:
        """Why a matrix has no scheme though its type has one, by its published name."""
        kinds = {name: self._stored(entry).kind for name, entry in self._entries.items()}
        return {
            name: f"the model publishes it transposed, so that blocks of {kind.name} do not follow its inputs"
            for name, kind in kinds.items()
            if kind.scheme != PLAIN and self.scheme(name) == PLAIN
        }

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def shape(self, name: str) -> tuple[int, ...]:
        """The published shape. Raises ModelError for an unknown name."""
        entry = self._entry(name)
        shape = self._stored(entry).shape
        if entry.expert is not None:
            return shape[1:]
        return shape[::-1] if self._is_transposed(entry) else shape

    def dtype(self, name: str) -> np.dtype[Any]:
        """The stored dtype; float32 for what is quantized and for norms that an offset is taken from."""
        entry = self._entry(name)
        kind = self._stored(entry).kind.name
        return _FLOAT32 if self._norm_offset(name, entry) else PLAIN_DTYPES.get(kind, _FLOAT32)

    def tensor(self, name: str) -> np.ndarray:
        """The array: a read-only view where the file has it as it is published; else float32, decoded exactly."""
        entry = self._entry(name)
        tensor, data = self._data(entry)
        plain = PLAIN_DTYPES.get(tensor.kind.name)
        shape = tensor.shape if entry.expert is None else tensor.shape[1:]
        array = (dequantize_rows(tensor.kind, data, shape[-1]) if plain is None else data.view(plain)).reshape(shape)
        if offset := self._norm_offset(name, entry):
            array = array.astype(np.float32) - np.float32(offset)
        order = self._row_order(entry, len(array)) if array.ndim else None
        if order is not None:
            array = array[order]
        return array.T if self._is_transposed(entry) else array

    def scheme(self, name: str) -> str:
        """The scheme of `quantized`, or "plain"."""
        entry = self._entry(name)
        tensor = self._stored(entry)
        is_matrix = len(tensor.shape) - (entry.expert is not None) == 2 and not self._is_transposed(entry)
        return tensor.kind.scheme if is_matrix and tensor.kind.scheme else PLAIN

    def quantized(self, name: str) -> QuantizedMatrix:
        """The matrix in integers, in the published order of rows."""
        if self.scheme(name) == PLAIN:
            raise InternalError(f"{name} is not quantized")
        entry = self._entry(name)
        tensor, data = self._data(entry)
        matrix = to_matrix(tensor.kind, data, tensor.shape[-1])
        order = self._row_order(entry, matrix.shape[0])
        return matrix if order is None else matrix.rows(order)

    def _add(self, stored: str, name: TensorName) -> None:
        if not name.is_experts:
            names = {name.name: _Entry(stored, name.block_name)}
        else:
            num_experts = self._files.tensors[stored].shape[0]
            names = {name.name.format(expert): _Entry(stored, name.block_name, expert) for expert in range(num_experts)}
        for published, entry in names.items():
            if published in self._entries:
                raise ModelError(
                    f"{self.path}: {stored} and {self._entries[published].stored} are both {published}",
                    because="a tensor may be stored once",
                )
            self._entries[published] = entry

    def _entry(self, name: str) -> _Entry:
        if name not in self._entries:
            raise ModelError(f"{self.path} has no tensor {name}", because="no tensor of the file stands for it")
        return self._entries[name]

    def _stored(self, entry: _Entry) -> StoredTensor:
        return self._files.tensors[entry.stored]

    def _data(self, entry: _Entry) -> tuple[StoredTensor, np.ndarray]:
        """The tensor's bytes, of one expert only its own."""
        tensor, data = self._stored(entry), self._files.blocks(entry.stored)
        if entry.expert is None:
            return tensor, data
        return tensor, data.reshape(tensor.shape[0], -1)[entry.expert]

    def _is_transposed(self, entry: _Entry) -> bool:
        return entry.block_name in self._table.transposed and len(self._stored(entry).shape) == 2

    def _norm_offset(self, name: str, entry: _Entry) -> float:
        is_norm = name.endswith(("norm.weight", "layernorm.weight")) and len(self._stored(entry).shape) == 1
        return self._table.norm_offset if is_norm else 0.0

    def _row_order(self, entry: _Entry, rows: int) -> np.ndarray | None:
        """Which stored row each published one is, None where they are the same."""
        if heads := self._table.permuted.get(entry.block_name):
            return _halves_from_pairs(rows, int(self._config[heads]))
        if entry.block_name in self._table.interleaved:
            num_heads = int(self._config["num_attention_heads"])
            return np.arange(rows).reshape(3, num_heads, -1).transpose(1, 0, 2).reshape(-1)
        return None

    def _refuse_unread(self) -> None:
        unread = {name: tensor.kind.name for name, tensor in self._files.tensors.items() if tensor.kind.scheme is None}
        if unread:
            counts = Counter(unread.values())
            raise ModelError(
                f"{self.path}: tensors of type {', '.join(f'{kind} ({n})' for kind, n in sorted(counts.items()))}",
                because=f"tensor types that are read are {', '.join(READABLE)}; {next(iter(unread))} is not",
                hint="a file of the model in another quantization, for example Q4_K_M or Q8_0",
            )

    def _announce(self) -> None:
        again = Counter(tensor.kind for tensor in self._files.tensors.values() if tensor.kind.is_rounded_again)
        for kind, count in again.items():
            logger.warning(
                "%s: %d matrices of type %s are rounded again, to %s: no scheme has five bits and minima",
                self.path.name,
                count,
                kind.name,
                kind.scheme,
            )


def _halves_from_pairs(rows: int, num_heads: int) -> np.ndarray:
    """Inside each head the stored rows alternate between the two halves that rotary turns together."""
    return np.arange(rows).reshape(num_heads, -1, 2).transpose(0, 2, 1).reshape(-1)
