"""Decode on a GPU beside what its memory allows: random weights in the shapes of known models, no checkpoint needed.

    python benchmarks/gpu.py --device cuda
    python benchmarks/gpu.py --device torch --model tiny --batch 1 --context 32     # does it run at all

One figure is one greedy decode step of the executor, submitted one ahead as the engine does; scheduling, detokenizing
and the server are not in it. The bound is (weights and KV read once) / measured copy bandwidth for a step, or its
operations / measured matrix rate where that is longer. KV pages are filled by prefill in chunks.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import numpy as np

from quire.device import Executor, ExecutorPlan, GroupBatch, KVPlan, Pending, SamplingBatch, StepBatch
from quire.device.capabilities import MachineLimits
from quire.device.registry import LoadedBackend, resolve_device
from quire.graph.cost import Dtypes, decode_cost
from quire.graph.ir import ModelGraph
from quire.graph.passes import optimize
from quire.models.spec import build_model_from_config
from quire.weights.dummy import DummyWeights

_QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "max_position_embeddings": 40960,
    "tie_word_embeddings": True,
}
MODELS: dict[str, dict[str, Any]] = {
    "qwen3-0.6b": {
        **_QWEN3,
        "vocab_size": 151936,
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "head_dim": 128,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
    },
    "llama-3.1-8b": {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 5e5,
        "max_position_embeddings": 131072,
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "tie_word_embeddings": False,
    },
    "tiny": {
        **_QWEN3,
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 128,
        "head_dim": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
}
_CHUNK = 2048


def make_executor(backend: LoadedBackend, model: ModelGraph, batch: int, max_len: int) -> Executor:
    """A loaded executor with KV for `batch` sequences of `max_len`."""
    dtype, block_size = backend.capabilities.act_dtypes[0], backend.capabilities.block_sizes[0]
    plan = ExecutorPlan(
        model=model,
        weight_dtype=dtype,
        act_dtype=dtype,
        kv_dtype=dtype,
        block_size=block_size,
        max_model_len=max_len,
        max_num_batched_tokens=max(_CHUNK, batch),
        max_num_seqs=batch,
        max_logits_rows=batch,
        options=backend.options,
    )
    executor = backend.create_executor(plan)
    executor.load(DummyWeights(model, dtype=dtype), lambda done, total: None)
    pools = {group.pool for group in model.kv_groups.values()}
    executor.allocate_kv(KVPlan(num_blocks=dict.fromkeys(pools, batch * -(-max_len // block_size))))
    return executor


def step_of(
    model: ModelGraph,
    number: int,
    token_ids: np.ndarray,
    seqs: np.ndarray,
    computed: int,
    tables: np.ndarray,
    *,
    sample: bool,
) -> StepBatch:
    """The same number of tokens for each of `seqs`; -1 in token_ids takes what the step before sampled."""
    per_seq = len(token_ids) // len(seqs)
    rows = np.arange(len(seqs), dtype=np.int32)
    sampling = SamplingBatch(
        rows=rows,
        temperature=np.zeros(len(seqs), np.float32),
        seed=np.zeros(len(seqs), np.uint64),
        sequence_index=np.zeros(len(seqs), np.uint32),
        position=np.full(len(seqs), computed + per_seq, np.int32),
    )
    last = ((rows + 1) * per_seq - 1).astype(np.int32)
    return StepBatch(
        step=number,
        token_ids=token_ids.astype(np.int32),
        num_computed=np.full(len(seqs), computed, np.int32),
        query_start_loc=np.arange(0, len(token_ids) + 1, per_seq, dtype=np.int32),
        prev_row=rows,
        groups={name: GroupBatch(tables[seqs]) for name in model.kv_groups},
        logits_indices=last if sample else np.empty(0, np.int32),
        sampling=sampling if sample else None,
    )


def decode_seconds(
    executor: Executor, model: ModelGraph, block_size: int, batch: int, context: int, steps: int
) -> float:
    """The median decode step, one step submitted ahead where the device allows it."""
    rng, vocab = np.random.default_rng(0), model.axes["vocab"].size
    width = -(-(context + steps + 1) // block_size)
    tables = np.arange(batch * width, dtype=np.int32).reshape(batch, width)
    number = 0
    for seq in range(batch):
        for start in range(0, context, _CHUNK):
            tokens = rng.integers(0, vocab, min(_CHUNK, context - start))
            executor.submit(step_of(model, number, tokens, np.array([seq]), start, tables, sample=False)).result()
            number += 1
    everyone, depth = np.arange(batch), min(2, executor.capabilities.async_depth)
    unread: list[Pending] = []
    ends = []
    for index in range(steps + 1):
        tokens = np.full(batch, -1) if index else rng.integers(0, vocab, batch)
        unread.append(
            executor.submit(step_of(model, number + index, tokens, everyone, context + index, tables, sample=True))
        )
        if len(unread) == depth:
            unread.pop(0).result()
            ends.append(time.perf_counter())
    for pending in unread:
        pending.result()
        ends.append(time.perf_counter())
    return statistics.median(np.diff(ends).tolist())


def measure(
    backend: LoadedBackend, limits: MachineLimits, name: str, batch: int, context: int, steps: int
) -> dict[str, Any]:
    """One row of the report."""
    dtype, block_size = backend.capabilities.act_dtypes[0], backend.capabilities.block_sizes[0]
    model = optimize(build_model_from_config(MODELS[name]).graph, backend.capabilities.fused_ops)
    executor = make_executor(backend, model, batch, context + steps + 1)
    seconds = decode_seconds(executor, model, block_size, batch, context, steps)
    executor.close()
    cost = decode_cost(model, context, Dtypes(weight=dtype, act=dtype, kv=dtype), num_seqs=batch)
    num_bytes = cost.weight_bytes + cost.kv_bytes
    bound = max(num_bytes / limits.read_bytes_per_s, cost.flops / limits.flops_per_s)
    return {
        "model": name,
        "batch": batch,
        "context": context,
        "step_ms": seconds * 1e3,
        "tokens_per_s": batch / seconds,
        "read_gb": num_bytes / 1e9,
        "bound_ms": bound * 1e3,
        "share": bound / seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--device-option", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--model", action="append", choices=tuple(MODELS))
    parser.add_argument("--batch", type=int, action="append")
    parser.add_argument("--context", type=int, default=1024, help="tokens in each sequence's cache")
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    backend = resolve_device(args.device, dict(pair.split("=", 1) for pair in args.device_option))
    limits = backend.measure_limits()
    if limits is None:
        parser.error(f"device {args.device} does not measure its limits, and without them a figure says nothing")
    rows = [
        measure(backend, limits, name, batch, args.context, args.steps)
        for name in args.model or ("qwen3-0.6b", "llama-3.1-8b")
        for batch in args.batch or (1, 32, 128)
    ]
    report = {
        "device": backend.report.name,
        "driver": backend.report.driver,
        "dtype": backend.capabilities.act_dtypes[0],
        "copy_gb_per_s": limits.read_bytes_per_s / 1e9,
        "product_gflop_per_s": limits.flops_per_s / 1e9,
        "limits": limits.description,
        "rows": rows,
    }
    if args.json:
        print(json.dumps(report, indent=2))
        return
    print(
        "{device}, {driver}, {dtype}; copy {copy_gb_per_s:.1f} GB/s, product {product_gflop_per_s:.0f} GFLOP/s "
        "({limits})".format(**report)
    )
    print(f"{'model':<14}{'batch':>6}{'context':>9}{'step ms':>10}{'tokens/s':>10}{'bound ms':>10}{'share':>8}")
    for row in rows:
        print(
            "{model:<14}{batch:>6}{context:>9}{step_ms:>10.3f}{tokens_per_s:>10.1f}{bound_ms:>10.3f}"
            "{share:>8.1%}".format(**row)
        )


if __name__ == "__main__":
    main()
