"""The least that a run must read and compute, and how fast the machine's measured limits would do it."""

from __future__ import annotations

import statistics
from dataclasses import fields, replace

from quire.bench.workload import Workload
from quire.device.capabilities import MachineLimits
from quire.engine.build import LoadedEngine
from quire.engine.quantization import step_dtypes
from quire.graph.cost import decode_cost, prefill_cost


def median_limits(limits: list[MachineLimits]) -> MachineLimits | None:
    """Field by field; None where nothing was measured."""
    if not limits:
        return None
    medians: dict[str, float | None] = {}
    for field in fields(MachineLimits):
        if field.name != "description":
            values = [value for limit in limits if (value := getattr(limit, field.name)) is not None]
            medians[field.name] = statistics.median(values) if values else None
    description = f"{limits[0].description}; median of {len(limits)}, one before each run"
    return replace(limits[0], **medians, description=description)  # type: ignore[arg-type]


def decode_bytes(loaded: LoadedEngine, context: int) -> int:
    """Bytes of one stream's decode step: every weight once, and `context` tokens of KV."""
    cost = decode_cost(loaded.model, context, step_dtypes(loaded.resolved, loaded.model))
    return cost.weight_bytes + cost.kv_bytes


def prefill_operations(loaded: LoadedEngine, num_tokens: int) -> int:
    """Operations of one prompt, with the logits of its last token."""
    return prefill_cost(loaded.model, num_tokens, step_dtypes(loaded.resolved, loaded.model)).flops


def batch_operations(loaded: LoadedEngine, load: Workload) -> int:
    """Operations of many requests at once: every prompt, and every step of all of them."""
    context = load.num_prompt_tokens // len(load.prompts) + load.output_len // 2
    dtypes = step_dtypes(loaded.resolved, loaded.model)
    step = decode_cost(loaded.model, context, dtypes, num_seqs=len(load.prompts)).flops
    return sum(prefill_operations(loaded, len(prompt)) for prompt in load.prompts) + load.output_len * step


def arithmetic_peak(loaded: LoadedEngine, limits: MachineLimits) -> tuple[float, str]:
    """(operations per second, its name) of what the model's weights are held in: 8-bit integers or floats."""
    if limits.int8_ops_per_s is not None and step_dtypes(loaded.resolved, loaded.model).scheme_bits:
        return limits.int8_ops_per_s, "int8 arithmetic"
    return limits.flops_per_s, "arithmetic"
