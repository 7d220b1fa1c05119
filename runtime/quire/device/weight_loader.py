"""Brings the weights of a lowered model to where its kernels want them, each checkpoint expression once."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from quire.device.contract import ExecutorPlan, LoadProgress, OpLibrary, QuantizedLibrary, WeightSource
from quire.device.dtypes import numpy_dtype
from quire.device.placement import LoweredPart
from quire.graph.ir import Source, Weight
from quire.graph.shapes import concrete
from quire.weights.schemes import PLAIN, QuantizedMatrix, WeightScheme, quantize

_Key = tuple[Source, str, str]


class WeightLoader:
    """Loads parts one by one. A weight is identified by (source, scheme, dtype), so tied ones are held once.

    Attributes:
        host_bytes: bytes of the copies that reference kernels read.
    """

    def __init__(self, library: OpLibrary, plan: ExecutorPlan, source: WeightSource, progress: LoadProgress) -> None:
        self._library, self._plan, self._source, self._progress = library, plan, source, progress
        self._axis_sizes = plan.model.axis_sizes()
        self._on_device: dict[_Key, Any] = {}
        self._on_host: dict[_Key, np.ndarray] = {}
        self._read_bytes = 0
        self.host_bytes = 0

    def load(self, lowered: LoweredPart) -> dict[str, Any]:
        """Local name -> the library's weight, None where only the reference reads it; fills `host_weights`."""
        bound: dict[str, Any] = {}
        for name, weight in lowered.part.graph.weights.items():
            bound[name] = self._device_weight(weight) if name in lowered.device_weights else None
            if name in lowered.host_weights:
                lowered.host_weights[name] = self._host_weight(weight)
        return bound

    def _key(self, weight: Weight) -> _Key:
        return weight.source, weight.scheme, "float32" if weight.keep_f32 else self._plan.weight_dtype

    def _device_weight(self, weight: Weight) -> Any:
        key = self._key(weight)
        if key not in self._on_device:
            if weight.scheme == PLAIN:
                self._on_device[key] = self._library.put_weight(weight, self._read(weight), key[2])
            else:
                library = cast(QuantizedLibrary, self._library)
                self._on_device[key] = library.put_quantized(
                    weight, self._read_quantized(weight), concrete(weight.shape, self._axis_sizes)
                )
        return self._on_device[key]

    def _host_weight(self, weight: Weight) -> np.ndarray:
        key = self._key(weight)
        if key not in self._on_host:
            self._on_host[key] = np.array(self._read(weight), dtype=numpy_dtype(key[2]), order="C")
            self.host_bytes += self._on_host[key].nbytes
        return self._on_host[key]

    def _read(self, weight: Weight) -> np.ndarray:
        array = self._source.read(weight)
        self._count(array.nbytes)
        return array

    def _read_quantized(self, weight: Weight) -> QuantizedMatrix:
        """In integers as they are stored, else rounded here."""
        matrix = self._source.read_quantized(weight)
        if matrix is None:
            array = self._read(weight)
            return quantize(array.reshape(-1, array.shape[-1]), WeightScheme.parse(weight.scheme))
        self._count(matrix.nbytes)
        return matrix

    def _count(self, num_bytes: int) -> None:
        self._read_bytes += num_bytes
        self._progress(self._read_bytes, max(self._read_bytes, self._source.total_bytes))
