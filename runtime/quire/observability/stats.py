"""Counters and gauges of an engine core, as /metrics and logs show them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class StepCounters:
    """Totals since the core was made; owned and written by the core only."""

    steps: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    prefix_query_tokens: int = 0
    prefix_hit_tokens: int = 0
    preemptions: int = 0
    requests_finished: int = 0
    failed_steps: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """A snapshot. Gauges: num_running .. kv_waste. Counters, since start: the rest.

    Attributes:
        num_running, num_waiting: sequences with and without a place in the KV cache.
        num_blocks, num_used_blocks: of all pools; used = referenced by a sequence. Cached blocks that nobody
            references count as free, since they can be taken.
        num_cached_blocks: blocks that a prefix hit can find, used or free.
        kv_usage: num_used_blocks / num_blocks.
        kv_waste: share of the slots of used blocks that hold no token.
        prompt_tokens: prompt tokens put through the model or found in the cache, once per request.
        generated_tokens: tokens delivered.
        prefix_query_tokens, prefix_hit_tokens: tokens looked up in the prefix cache, and found.
        preemptions: sequences that lost their blocks and had to start over.
        requests_finished: for any reason. failed_steps: steps the device could not do.
        num_replaced_executors: executors that were made in place of one that broke.
    """

    num_running: int = 0
    num_waiting: int = 0
    num_blocks: int = 0
    num_used_blocks: int = 0
    num_cached_blocks: int = 0
    kv_usage: float = 0.0
    kv_waste: float = 0.0
    steps: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    prefix_query_tokens: int = 0
    prefix_hit_tokens: int = 0
    preemptions: int = 0
    requests_finished: int = 0
    failed_steps: int = 0
    num_replaced_executors: int = 0
