"""Whether a model fits into a device's memory, told before a weight is read, and what would fit if it does not.

Everything is known by then: bytes of weights from the graph and its schemes, of activations from the arena, of the
KV cache from the limits. What is free is what the device's report says.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from quire.device.capabilities import Capabilities, DeviceReport
from quire.engine.config import EngineConfig
from quire.engine.quantization import step_dtypes
from quire.engine.resolved_config import ResolvedConfig
from quire.errors import ConfigError
from quire.graph.cost import weight_totals
from quire.graph.ir import ModelGraph
from quire.graph.kv_budget import dtype_bytes, kv_pools, longest_sequence, pool_block_bytes, sequence_kv_bytes
from quire.graph.memory import plan_arena
from quire.graph.value_dtypes import element_bytes

logger = logging.getLogger("quire")

SHORTEST_USEFUL_LEN = 256
"""A smaller --max-model-len is not proposed."""

_FEWEST_BATCHED_TOKENS = 64
_MOST_UTILIZATION = 0.95
_SCHEMES = ("int8", "int4")


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Bytes that an engine takes of its device.

    Attributes:
        conversion: of the largest tensor that is dequantized while weights load; given back before the rest is taken.
        kv: of one sequence of max_model_len tokens, or of the number of blocks that was asked for.
    """

    weights: int
    conversion: int
    activations: int
    kv: int

    @property
    def without_kv(self) -> int:
        """What must be there before the first block."""
        return self.weights + max(self.conversion, self.activations)

    @property
    def total(self) -> int:
        """At the highest moment."""
        return self.weights + max(self.conversion, self.activations + self.kv)


class MemoryFit:
    """The check of one engine.

    Args:
        max_logits_rows: as in the executor's plan.
        conversion_bytes: see `MemoryNeed.conversion`.
        holds_floats: the device holds quantized weights in float32.
        quantized: the model with another --quantization; raises ConfigError where that cannot be.
    """

    def __init__(
        self,
        config: EngineConfig,
        resolved: ResolvedConfig,
        capabilities: Capabilities,
        report: DeviceReport,
        *,
        max_logits_rows: int,
        conversion_bytes: int,
        holds_floats: bool,
        quantized: Callable[[str], ModelGraph],
    ) -> None:
        self._config, self._resolved, self._capabilities, self._report = config, resolved, capabilities, report
        self._max_logits_rows, self._conversion_bytes = max_logits_rows, conversion_bytes
        self._holds_floats, self._quantized = holds_floats, quantized

    def check(self, model: ModelGraph, device: str) -> None:
        """Raises ConfigError with the sizes, and with settings that were computed to fit."""
        if self._report.total_memory_bytes <= 0:
            logger.debug("device %s does not say how much memory it has: nothing is checked before loading", device)
            return
        need, available = self.need(model, self._resolved), self._available(self._share)
        if need.total <= available:
            return
        raise ConfigError(
            f"{self._config.model} does not fit into the memory of device {device}: {self._sum(need)},"
            f" {_gib(available)} is available",
            because=f"{_gib(self._report.free_memory_bytes)} of {_gib(self._report.total_memory_bytes)} is free"
            + (f", and of that the engine takes {self._share:g} (--memory-utilization)" * (self._share < 1)),
            hint=", or ".join([*self._proposals(model, available), "a smaller model, or a device with more memory"]),
        )

    def need(self, model: ModelGraph, resolved: ResolvedConfig) -> MemoryNeed:
        """What `model` takes with these settings."""
        dtypes = step_dtypes(resolved, model)
        bits = dict.fromkeys(dtypes.scheme_bits, 32.0) if self._holds_floats else dtypes.scheme_bits
        sizes = {
            **model.axis_sizes(),
            "T": resolved.max_num_batched_tokens,
            "S": resolved.max_num_seqs,
            "L": min(self._max_logits_rows, resolved.max_num_batched_tokens),
        }
        arena = plan_arena(
            [part.graph for part in model.parts()],
            sizes,
            dtype_bytes=element_bytes(int(dtypes.value_bytes("act"))),
        )
        return MemoryNeed(
            weights=weight_totals(model, resolved.weight_dtype, bits)[1],
            conversion=self._conversion_bytes,
            activations=arena.total_bytes,
            kv=self._kv_bytes(model, resolved),
        )

    @property
    def _share(self) -> float:
        """Of the free memory, for the engine; a number of blocks that the user gives is taken at its word."""
        return 1.0 if self._config.num_kv_blocks is not None else self._resolved.memory_utilization

    def _available(self, share: float) -> int:
        return int(self._report.free_memory_bytes * share)

    def _kv_bytes(self, model: ModelGraph, resolved: ResolvedConfig) -> int:
        blocks = self._config.num_kv_blocks
        if blocks is not None:
            return blocks * sum(
                pool_block_bytes(model, pool, resolved.block_size, resolved.kv_dtype) for pool in kv_pools(model)
            )
        return sequence_kv_bytes(
            model,
            resolved.max_model_len,
            block_size=resolved.block_size,
            kv_dtype=resolved.kv_dtype,
            max_num_batched_tokens=resolved.max_num_batched_tokens,
        )

    def _sum(self, need: MemoryNeed) -> str:
        blocks = self._config.num_kv_blocks
        cache = (
            f"a sequence of max_model_len={self._resolved.max_model_len} tokens"
            if blocks is None
            else f"{blocks} blocks"
        )
        parts = [f"weights {_gib(need.weights)}"]
        if need.conversion > need.activations + need.kv:
            parts.append(f"the largest tensor while it is converted {_gib(need.conversion)}")
        else:
            parts += [f"activations {_gib(need.activations)}", f"KV cache of {cache} {_gib(need.kv)}"]
        return " + ".join(parts) + f" = {_gib(need.total)}"

    # ---- what would fit --------------------------------------------------------------------------------

    def _proposals(self, model: ModelGraph, available: int) -> Iterator[str]:
        """Settings that fit, the mildest of each kind; each alone is enough."""
        yield from self._shorter(model, available, "")
        yield from self._by_scheme(available)
        yield from self._fewer_tokens(model, available)
        yield from self._smaller_cache(model, available)
        yield from self._higher_utilization(model)

    def _shorter(self, model: ModelGraph, available: int, beside: str) -> Iterator[str]:
        """Fewer tokens of a sequence, or fewer blocks where their number was given."""
        resolved = self._resolved
        room = available - self.need(model, resolved).without_kv
        if self._config.num_kv_blocks is not None:
            per_block = self._kv_bytes(model, resolved) // self._config.num_kv_blocks
            if room >= per_block:
                yield f"{beside}--num-kv-blocks {room // per_block}"
            return
        longest = longest_sequence(
            model,
            room,
            resolved.max_model_len,
            block_size=resolved.block_size,
            kv_dtype=resolved.kv_dtype,
            max_num_batched_tokens=resolved.max_num_batched_tokens,
        )
        if longest >= min(SHORTEST_USEFUL_LEN, resolved.max_model_len):
            yield f"{beside}--max-model-len {longest}"

    def _by_scheme(self, available: int) -> Iterator[str]:
        """The finest quantization that fits, or the coarsest with shorter sequences."""
        if self._config.quantization is not None and self._config.quantization not in _SCHEMES[:1]:
            return
        model = None
        for scheme in _SCHEMES:
            try:
                model = self._quantized(scheme)
            except ConfigError:
                continue  # the device has no kernel for it, or the checkpoint is quantized already
            if self.need(model, self._resolved).total <= available and scheme != self._config.quantization:
                yield f"-q {scheme}"
                return
        if model is not None:
            yield from self._shorter(model, available, f"-q {scheme} ")

    def _fewer_tokens(self, model: ModelGraph, available: int) -> Iterator[str]:
        """Fewer tokens in a step: smaller activations."""
        tokens = self._resolved.max_num_batched_tokens // 2
        while tokens >= _FEWEST_BATCHED_TOKENS:
            seqs = min(self._resolved.max_num_seqs, tokens)
            fewer = replace(self._resolved, max_num_batched_tokens=tokens, max_num_seqs=seqs)
            if self.need(model, fewer).total <= available:
                asked = f" --max-num-seqs {seqs}" if seqs < (self._config.max_num_seqs or 0) else ""
                yield f"--max-num-batched-tokens {tokens}{asked}"
                return
            tokens //= 2

    def _smaller_cache(self, model: ModelGraph, available: int) -> Iterator[str]:
        """The largest dtype of the KV cache that fits, of those smaller than the one chosen."""
        now = dtype_bytes(self._resolved.kv_dtype)
        smaller = [dtype for dtype in self._capabilities.kv_dtypes if dtype_bytes(dtype) < now]
        for dtype in sorted(smaller, key=dtype_bytes, reverse=True):
            if self.need(model, replace(self._resolved, kv_dtype=dtype)).total <= available:
                yield f"--kv-cache-dtype {dtype}"
                return

    def _higher_utilization(self, model: ModelGraph) -> Iterator[str]:
        free = self._report.free_memory_bytes
        share = math.ceil(100 * self.need(model, self._resolved).total / free) / 100 if free else math.inf
        if self._share < share <= _MOST_UTILIZATION:
            yield f"--memory-utilization {share:g}"


def _gib(num_bytes: int) -> str:
    """Bytes for people: GiB, or MiB where that says more."""
    return f"{num_bytes / 2**30:.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.1f} MiB"
