"""The op library in torch: arrays are tensors on one torch device."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from quire.device.capabilities import Capabilities
from quire.device.contract import ExecutorPlan, Kernel
from quire.device.host_cpus import available_cpus
from quire.device.step_vector import StepLayout
from quire.errors import BackendError
from quire.graph.ir import Graph, KVGroupSpec, Node, Weight
from quire.graph.shapes import concrete
from quire.sampling.batch import I32, SamplingBatch
from quire_torch.lowering import Attention, Lowering
from quire_torch.machine import free_memory
from quire_torch.options import TorchOptions
from quire_torch.sampler import sample
from quire_torch.step_memo import StepMemo
from quire_torch.tensors import host_array, host_tensor, torch_dtype
from quire_torch.torch_attention import TorchAttention


class TorchLibrary:
    """An `OpLibrary` over tensors of `options.device`.

    Args:
        name: the device's name in `--device`, for tables and errors.
    """

    def __init__(self, name: str, capabilities: Capabilities, options: TorchOptions) -> None:
        self.name, self.capabilities = name, capabilities
        self._device = torch.device(options.device)
        self._held_bytes = 0
        memo = StepMemo()
        self._lowering = Lowering(self.put, self._make_attention(options, memo), memo)
        if self._device.type == "cpu":
            torch.set_num_threads(options.threads or min(torch.get_num_threads(), available_cpus()))
        if self._device.index is not None:  # Triton launches on the current device, wherever its tensors are
            getattr(torch, self._device.type).set_device(self._device)
        if self._device.type == "cuda":  # sums of split products stay in float32 until they are rounded once
            torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
            torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False

    def put(self, array: np.ndarray, dtype: str | None = None) -> torch.Tensor:
        """The array on the device; on the CPU it shares the array's memory unless it is converted."""
        return host_tensor(array).to(self._device, None if dtype is None else torch_dtype(dtype))

    def get(self, array: torch.Tensor) -> np.ndarray:
        """The tensor on the host; waits for it."""
        return host_array(array)

    def put_step(self, vector: I32, layout: StepLayout) -> dict[str, torch.Tensor]:
        """The arrays of a step, which share one tensor: one copy to the device."""
        whole = self.put(vector)
        return {f.name: whole[start : start + f.size].view(f.shape) for f, start in layout.places()}

    def put_weight(self, weight: Weight, array: np.ndarray, dtype: str) -> torch.Tensor:
        """A contiguous tensor of the device, rounded to `dtype`; read straight from the mapped file."""
        held = torch.empty(array.shape, dtype=torch_dtype(dtype), device=self._device)
        held.copy_(host_tensor(array))
        self._held_bytes += held.nbytes
        return held

    def create_cache(
        self, group: KVGroupSpec, axis_sizes: Mapping[str, int], num_blocks: int, block_size: int, dtype: str
    ) -> dict[str, torch.Tensor]:
        """[num_blocks + 1, block_size, *shape_per_token] each; rows without a block are written to the last one."""
        cache = {}
        for array in group.arrays:
            shape = (num_blocks + 1, block_size, *concrete(array.shape, axis_sizes))
            held_as = torch_dtype("float32" if array.dtype == "f32" else dtype)
            cache[array.name] = torch.empty(shape, dtype=held_as, device=self._device)
        self._held_bytes += sum(array.nbytes for array in cache.values())
        return cache

    def copy_blocks(self, cache: Mapping[str, torch.Tensor], copies: I32) -> None:
        """Every destination gets what its source held before the call."""
        source, destination = (self.put(copies[:, column].astype(np.int64)) for column in (0, 1))
        for array in cache.values():
            array[destination] = array[source]

    def read_blocks(self, cache: Mapping[str, torch.Tensor], block_ids: I32) -> dict[str, np.ndarray]:
        """[n, block_size, *shape_per_token] each; copies."""
        blocks = self.put(np.asarray(block_ids, np.int64))
        return {name: self.get(array[blocks]) for name, array in cache.items()}

    def write_blocks(self, cache: Mapping[str, torch.Tensor], block_ids: I32, pages: Mapping[str, np.ndarray]) -> None:
        """The inverse of `read_blocks`."""
        blocks = self.put(np.asarray(block_ids, np.int64))
        for name, array in cache.items():
            array[blocks] = self.put(pages[name]).to(array.dtype)

    def lower(self, node: Node, graph: Graph, plan: ExecutorPlan) -> Kernel | None:
        """The node's kernel in torch."""
        return self._lowering.kernel(node, graph, plan)

    def memory(self) -> tuple[int, int]:
        """(bytes of weights and caches handed out, bytes free on the device)."""
        return self._held_bytes, free_memory(self._device)

    def sample(self, logits: torch.Tensor, batch: SamplingBatch) -> torch.Tensor:
        """One token for each sampled row, int32 [R] on the device."""
        return sample(logits, batch, self.put)

    def fill_tokens(self, token_ids: I32, places: I32, tokens: torch.Tensor, rows: I32) -> torch.Tensor:
        """token_ids int32 [T] with token_ids[places] = max(tokens[rows], 0)."""
        filled = self.put(token_ids.copy())
        filled[self.put(places)] = tokens[self.put(rows)].clamp(min=0)
        return filled

    def _make_attention(self, options: TorchOptions, memo: StepMemo) -> Attention:
        if options.attention == "torch":
            return TorchAttention(self.put, memo)
        try:
            from quire_torch.triton_attention import TritonAttention
        except ImportError as error:
            raise BackendError(
                f"device {self.name}: the attention kernel needs triton",
                because=str(error),
                hint="pip install triton, or --device-option attention=torch (slow)",
            ) from error
        return TritonAttention(self.put, memo)
