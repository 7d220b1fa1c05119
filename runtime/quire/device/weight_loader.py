"""Brings the weights of a lowered model to where its kernels want them: to the op library, to the host, or to both."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from quire.device.contract import OpLibrary, QuantizedLibrary
from quire.device.dtypes import numpy_dtype
from quire.device.placement import LoweredModel, LoweredPart
from quire.device.weight_stream import WeightStream
from quire.graph.ir import Part
from quire.weights.schemes import PLAIN


@dataclass(frozen=True, slots=True)
class LibraryWeights:
    """What the library made of a model's weights.

    Attributes:
        host_bytes: bytes of the copies that reference kernels read.
    """

    _bound: dict[int, dict[str, Any]]
    host_bytes: int

    def of(self, part: Part) -> dict[str, Any]:
        """Local name -> the library's weight, None where only the reference reads it."""
        return self._bound[id(part)]


def load_weights(library: OpLibrary, lowered: LoweredModel, stream: WeightStream) -> LibraryWeights:
    """Puts every weight on the device once; fills the `host_weights` of parts whose kernels the reference lends."""
    bound: dict[int, dict[str, Any]] = {
        id(part.part): dict.fromkeys(part.part.graph.weights) for part in lowered.parts()
    }
    lowered_as: dict[int, list[LoweredPart]] = defaultdict(list)
    for part in lowered.parts():
        lowered_as[id(part.part)].append(part)
    host_bytes = 0
    for planned, reader in stream:
        readers = [(part, use.name) for use in planned.uses for part in lowered_as[id(use.part)]]
        on_device = [(part, name) for part, name in readers if name in part.device_weights]
        on_host = [(part, name) for part, name in readers if name in part.host_weights]
        if planned.weight.scheme != PLAIN:  # never on the host: the reference takes no integers
            quantized = cast(QuantizedLibrary, library)
            held = quantized.put_quantized(planned.weight, reader.matrix(), planned.shape)
        else:
            array = reader.array()
            held = library.put_weight(planned.weight, array, planned.dtype) if on_device else None
            if on_host:
                copy = np.array(array, dtype=numpy_dtype(planned.dtype), order="C")
                host_bytes += copy.nbytes
                for part, name in on_host:
                    part.host_weights[name] = copy
        for part, name in on_device:
            bound[id(part.part)][name] = held
    return LibraryWeights(bound, host_bytes)
