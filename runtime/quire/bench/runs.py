"""Timed runs of an engine: one stream, and many requests at once. Every figure stands beside the machine's limit."""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict, dataclass
from typing import Any

from quire.bench.workload import Workload, random_workload
from quire.device.capabilities import MachineLimits
from quire.device.registry import resolve_device
from quire.engine.config import EngineConfig
from quire.engine.llm_engine import LLMEngine
from quire.graph.cost import Dtypes, decode_cost, prefill_cost
from quire.sampling_params import SamplingParams


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number, the limit it stands beside, and their ratio; limit None = not measured here."""

    name: str
    value: float
    unit: str
    limit: float | None = None

    @property
    def share(self) -> float | None:
        return self.value / self.limit if self.limit else None


@dataclass(frozen=True, slots=True)
class Report:
    """What a benchmark prints and writes."""

    title: str
    settings: dict[str, Any]
    figures: list[Figure]
    limits: MachineLimits | None

    def lines(self) -> list[str]:
        """For people."""
        rows = [self.title, ", ".join(f"{key}={value}" for key, value in self.settings.items())]
        if self.limits is not None:
            rows.append(
                f"limits: read {self.limits.read_bytes_per_s / 1e9:.1f} GB/s, "
                f"arithmetic {self.limits.flops_per_s / 1e9:.0f} GFLOP/s ({self.limits.description})"
            )
        for figure in self.figures:
            limit = f"  {figure.share:6.1%} of the limit {figure.limit:,.1f}" if figure.share is not None else ""
            rows.append(f"  {figure.name:<28} {figure.value:>12,.2f} {figure.unit:<9}{limit}")
        return rows

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "title": self.title,
            "settings": self.settings,
            "limits": None if self.limits is None else asdict(self.limits),
            "figures": [{**asdict(figure), "share": figure.share} for figure in self.figures],
        }


def run_latency(config: EngineConfig, *, input_len: int, output_len: int, repeats: int, warmups: int = 1) -> Report:
    """One request at a time: time to first token, decode and prefill rates; medians over `repeats`."""
    engine, start_s = _start(config, 1)
    try:
        vocab_size = engine.loaded.limits.vocab_size
        prefill_s, decode_s, limits = [], [], []
        for repeat in range(warmups + repeats):
            load = random_workload(
                num_prompts=1, input_len=input_len, output_len=output_len, vocab_size=vocab_size, seed=repeat
            )
            measured = _measure_limits(config)
            first_s, total_s = run_once(engine, load)
            if repeat >= warmups:
                prefill_s.append(first_s)
                decode_s.append((total_s - first_s) / max(output_len - 1, 1))
                limits += [measured] if measured is not None else []
        limit = _median_limits(limits)
        figures = [
            Figure("load", start_s, "s"),
            Figure("time to first token", statistics.median(prefill_s) * 1e3, "ms"),
            Figure(
                "prefill",
                input_len / statistics.median(prefill_s),
                "tokens/s",
                prefill_bound(engine, input_len, limit) if limit is not None else None,
            ),
            Figure(
                "decode, one stream",
                1 / statistics.median(decode_s),
                "tokens/s",
                decode_bound(engine, input_len + output_len // 2, limit) if limit is not None else None,
            ),
            Figure("peak memory", peak_memory_mib(), "MiB"),
        ]
        settings = {
            "model": config.model,
            "device": config.device,
            "input_len": input_len,
            "output_len": output_len,
            "repeats": repeats,
            "dtype": engine.loaded.resolved.weight_dtype,
            "kv": engine.loaded.resolved.kv_dtype,
        }
        return Report("latency, one request at a time", settings, figures, limit)
    finally:
        engine.close()


def run_throughput(
    config: EngineConfig, *, num_prompts: int, min_input_len: int, input_len: int, output_len: int, repeats: int
) -> Report:
    """All requests at once: output and total tokens per second of wall time; medians over `repeats`."""
    engine, start_s = _start(config, num_prompts)
    try:
        vocab_size = engine.loaded.limits.vocab_size
        loads = [
            random_workload(
                num_prompts=num_prompts,
                input_len=input_len,
                output_len=output_len,
                seed=repeat,
                min_input_len=min_input_len,
                vocab_size=vocab_size,
            )
            for repeat in range(repeats)
        ]
        wall_s = [run_once(engine, load)[1] for load in loads]
        load = loads[0]
        median_s, limit = statistics.median(wall_s), _measure_limits(config)
        num_output = num_prompts * output_len
        bound = batch_bound(engine, load, limit) if limit is not None else None
        figures = [
            Figure("load", start_s, "s"),
            Figure("wall time", median_s, "s"),
            Figure("output tokens", num_output / median_s, "tokens/s", bound),
            Figure("prompt and output tokens", (load.num_prompt_tokens + num_output) / median_s, "tokens/s"),
            Figure("peak memory", peak_memory_mib(), "MiB"),
        ]
        settings = {
            "model": config.model,
            "device": config.device,
            "num_prompts": num_prompts,
            "input_len": f"{min_input_len}-{input_len}",
            "output_len": output_len,
            "repeats": repeats,
            "dtype": engine.loaded.resolved.weight_dtype,
            "kv": engine.loaded.resolved.kv_dtype,
        }
        return Report("throughput, all requests at once (limit: arithmetic)", settings, figures, limit)
    finally:
        engine.close()


def peak_memory_mib() -> float:
    """Peak resident memory of this process."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _start(config: EngineConfig, num_seqs: int) -> tuple[LLMEngine, float]:
    from dataclasses import replace

    start_s = time.perf_counter()
    engine = LLMEngine(
        replace(
            config, skip_tokenizer_init=True, enable_prefix_caching=False, max_num_seqs=config.max_num_seqs or num_seqs
        )
    )
    return engine, time.perf_counter() - start_s


def run_once(engine: LLMEngine, load: Workload) -> tuple[float, float]:
    """(time to the first token, total time) in seconds; greedy, end of text ignored."""
    params = SamplingParams(temperature=0.0, max_tokens=load.output_len, ignore_eos=True)
    start_s = time.perf_counter()
    for prompt in load.prompts:
        engine.add_request({"prompt_token_ids": prompt}, params)
    first_s = None
    while engine.has_unfinished():
        outputs = engine.step()
        if outputs and first_s is None:
            first_s = time.perf_counter() - start_s
    total_s = time.perf_counter() - start_s
    return first_s or total_s, total_s


def _measure_limits(config: EngineConfig) -> MachineLimits | None:
    return resolve_device(config.device, config.device_options).measure_limits()


def _median_limits(limits: list[MachineLimits]) -> MachineLimits | None:
    if not limits:
        return None
    return MachineLimits(
        read_bytes_per_s=statistics.median(limit.read_bytes_per_s for limit in limits),
        flops_per_s=statistics.median(limit.flops_per_s for limit in limits),
        description=f"{limits[0].description}; median of {len(limits)}, one before each run",
    )


def decode_bound(engine: LLMEngine, context: int, limit: MachineLimits) -> float:
    """Tokens/s of one stream if weights and KV were read once per token at the measured bandwidth."""
    cost = decode_cost(engine.loaded.model, context, _dtypes(engine))
    return limit.read_bytes_per_s / (cost.weight_bytes + cost.kv_bytes)


def prefill_bound(engine: LLMEngine, input_len: int, limit: MachineLimits) -> float:
    """Tokens/s of one prompt at the measured arithmetic peak."""
    return limit.flops_per_s * input_len / prefill_cost(engine.loaded.model, input_len, _dtypes(engine)).flops


def batch_bound(engine: LLMEngine, load: Workload, limit: MachineLimits) -> float:
    """Output tokens/s of many requests at the measured arithmetic peak, prompts included."""
    model, dtypes = engine.loaded.model, _dtypes(engine)
    context = max(map(len, load.prompts)) + load.output_len // 2
    flops = sum(prefill_cost(model, len(prompt), dtypes).flops for prompt in load.prompts)
    flops += load.output_len * decode_cost(model, context, dtypes, num_seqs=len(load.prompts)).flops
    return len(load.prompts) * load.output_len * limit.flops_per_s / flops


def _dtypes(engine: LLMEngine) -> Dtypes:
    resolved = engine.loaded.resolved
    return Dtypes(weight=resolved.weight_dtype, act=resolved.act_dtype, kv=resolved.kv_dtype)
