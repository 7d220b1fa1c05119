"""Run with TRITON_INTERPRET=1: the Triton kernel on CPU tensors against attention in plain torch.

Exits with an error at the first case that differs, and prints how many were compared.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import torch

from quire.device.batch import GroupBatch, StepBatch
from quire.device.contract import CacheHandle, KVPlan, StepContext
from quire.device.graph_executor import GraphExecutor
from quire.device.step_context import step_context
from quire.graph.alibi import alibi_slopes
from quire_torch.library import TorchLibrary
from quire_torch.options import TorchOptions
from quire_torch.plugin import CAPABILITIES
from quire_torch.step_memo import StepMemo
from quire_torch.tensors import host_tensor
from quire_torch.torch_attention import TorchAttention
from quire_torch.triton_attention import TritonAttention
from tests.device.conftest import Driver, Line, RandomWeights, make_plan, reference_driver

PAGE, NUM_BLOCKS = 4, 40
SEQUENCES = ((0, 9), (5, 1), (11, 6), (0, 1), (30, 1))  # (tokens in the cache, tokens of this step)
TOLERANCES = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}


def step(rng: np.random.Generator, window: int) -> StepContext:
    """A ragged step over shuffled blocks; those that left the window of every row are gone."""
    ids = rng.permutation(NUM_BLOCKS)
    tables, used = np.full((len(SEQUENCES), 9), -1, np.int32), 0
    for row, (computed, count) in enumerate(SEQUENCES):
        num_pages = -(-(computed + count) // PAGE)
        tables[row, :num_pages] = ids[used : used + num_pages]
        used += num_pages
        if window:
            tables[row, : max(0, computed - window + 1) // PAGE] = -1
    counts = [count for _, count in SEQUENCES]
    starts = np.cumsum([0, *counts]).astype(np.int32)
    batch = StepBatch(
        step=0,
        token_ids=np.zeros(starts[-1], np.int32),
        query_start_loc=starts,
        num_computed=np.array([computed for computed, _ in SEQUENCES], np.int32),
        prev_row=np.full(len(SEQUENCES), -1, np.int32),
        groups={"full": GroupBatch(tables)},
        logits_indices=np.empty(0, np.int32),
    )
    return step_context(batch, PAGE, host_tensor)


def filled_cache(
    rng: np.random.Generator, context: StepContext, kv_heads: int, head_dim: int, dtype: torch.dtype
) -> CacheHandle:
    """Keys and values where the step's sequences have them, NaN everywhere else."""
    written = np.zeros((NUM_BLOCKS + 1, PAGE), bool)
    for table, seq_len in zip(context.batch.groups["full"].block_tables, context.batch.seq_lens, strict=True):
        index = np.arange(seq_len)
        blocks = table[index // PAGE]
        written[blocks[blocks >= 0], (index % PAGE)[blocks >= 0]] = True
    arrays = {}
    for name in ("k", "v"):
        array = rng.standard_normal((NUM_BLOCKS + 1, PAGE, kv_heads, head_dim)).astype(np.float32)
        array[~written] = np.nan
        arrays[name] = host_tensor(array).to(dtype)
    return CacheHandle("full", 0, arrays)


def compare(
    heads: int,
    kv_heads: int,
    head_dim: int,
    window: int,
    softcap: float,
    causal: bool,
    dtype: torch.dtype,
    extras: str = "",
) -> None:
    """One case; raises AssertionError where the two disagree."""
    rng = np.random.default_rng(heads * head_dim + window)
    context, memo = step(rng, window), StepMemo()
    cache = filled_cache(rng, context, kv_heads, head_dim, dtype)
    q = host_tensor(rng.standard_normal((context.batch.num_tokens, heads, 2 * head_dim)).astype(np.float32)).to(dtype)
    q = q[..., :head_dim]  # strided, as after a split
    attrs: dict[str, Any] = {"scale": 0.4, "window": window, "softcap": softcap, "causal": causal}
    if "sinks" in extras:
        attrs["sinks"] = host_tensor(rng.standard_normal(heads).astype(np.float32)).to(dtype)
    if "alibi" in extras:
        attrs["slopes"] = host_tensor(alibi_slopes(heads))
    expected = TorchAttention(host_tensor, memo)(context, q, cache, **attrs)
    result = TritonAttention(host_tensor, memo)(context, q, cache, **attrs)
    assert result.dtype == dtype
    assert not expected.isnan().any()
    error = float((result.float() - expected.float()).abs().max())
    bound = TOLERANCES[dtype] * float(expected.abs().max())
    assert error <= bound, f"{heads=} {kv_heads=} {head_dim=} {attrs} {dtype}: {error}"


def compare_steps() -> None:
    """Chunked prefill beside decode through a model with a full and a sliding layer, against the reference."""
    plan = make_plan()
    executor = GraphExecutor(TorchLibrary("torch", CAPABILITIES, TorchOptions("cpu", "triton")), plan)
    executor.load(RandomWeights(plan.model), lambda done, total: None)
    executor.allocate_kv(KVPlan(num_blocks={"kv": 20}))
    logits = []
    for driver in (Driver(executor), reference_driver(plan)):
        lines = [
            Line([3, 14, 15, 9, 26, 5, 35, 8], {"full": [3, 1], "sliding": [9, 2]}),
            Line([7, 9, 32, 38, 4, 6], {"full": [0, 11], "sliding": [13, 14]}),
        ]
        for chunks in ([(0, 5)], [(1, 4), (0, 1)], [(0, 2), (1, 1)], [(1, 1)]):
            driver.step([(lines[index], count) for index, count in chunks])
        logits.append(np.concatenate([driver.logits_of(line) for line in lines]))
    error = np.abs(logits[0] - logits[1]).max()
    assert error <= 1e-5 * np.abs(logits[1]).max(), f"logits of whole steps are off by {error}"


def main() -> None:
    compare_steps()
    cases = [(4, 2, 8, 0, 0.0, True, torch.float32), (7, 1, 24, 0, 0.0, True, torch.float16)]
    cases += [(4, 2, 16, *masks, torch.float32) for masks in product((0, 1, 6), (0.0, 1.5), (True, False))]
    cases += [(6, 2, 16, 6, 1.5, True, dtype) for dtype in (torch.float16, torch.bfloat16)]
    cases += [
        (6, 2, 16, window, 0.0, True, torch.float32, extras)
        for window in (0, 6)
        for extras in ("sinks", "alibi", "sinks and alibi")
    ]
    for case in cases:
        compare(*case)
    print(f"{len(cases)} cases agree")


if __name__ == "__main__":
    main()
