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
from quire.graph.ir import ModelGraph
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
            rows.append(f"limits: read {self.limits.read_bytes_per_s / 1e9:.1f} GB/s, "
                        f"arithmetic {self.limits.flops_per_s / 1e9:.0f} GFLOP/s ({self.limits.description})")
        for figure in self.figures:
            limit = f"  {figure.share:6.1%} of the limit {figure.limit:,.1f}" if figure.share is not None else ""
            rows.append(f"  {figure.name:<28} {figure.value:>12,.2f} {figure.unit:<9}{limit}")
        return rows

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {"title": self.title, "settings": self.settings,
                "limits": None if self.limits is None else asdict(self.limits),
                "figures": [{**asdict(figure), "share": figure.share} for figure in self.figures]}


def run_latency(config: EngineConfig, *, input_len: int, output_len: int, repeats: int, warmups: int = 1) -> Report:
    """One request at a time: time to first token, decode and prefill rates; medians over `repeats`."""
    engine, start_s = _start(config, 1)
    try:
        vocab_size = engine.loaded.limits.vocab_size
        prefill_s, decode_s, limits = [], [], []
        for repeat in range(warmups + repeats):
            load = random_workload(num_prompts=1, input_len=input_len, output_len=output_len, vocab_size=vocab_size, seed=repeat)
            measured = _measure_limits(config)
            first_s, total_s = _run(engine, load)
            if repeat >= warmups:
                prefill_s.append(first_s)
                decode_s.append((total_s - first_s) / max(output_len - 1, 1))
                limits += [measured] if measured is not None else []
        limit = _median_limits(limits)
        model, dtypes = engine.loaded.model, _dtypes(engine)
        figures = [Figure("load", start_s, "s"), Figure("time to first token", statistics.median(prefill_s) * 1e3, "ms"),
                   _prefill_figure(input_len / statistics.median(prefill_s), input_len, model, dtypes, limit),
                   _decode_figure(1 / statistics.median(decode_s), input_len + output_len // 2, model, dtypes, limit),
                   Figure("peak memory", peak_memory_mib(), "MiB")]
        settings = {"model": config.model, "device": config.device, "input_len": input_len, "output_len": output_len,
                    "repeats": repeats, "dtype": engine.loaded.resolved.weight_dtype, "kv": engine.loaded.resolved.kv_dtype}
        return Report("latency, one request at a time", settings, figures, limit)
    finally:
        engine.close()


def run_throughput(config: EngineConfig, *, num_prompts: int, min_input_len: int, input_len: int, output_len: int,
                   repeats: int, warmups: int = 0) -> Report:
    """All requests at once: output and total tokens per second of wall time; medians over `repeats`."""
    engine, start_s = _start(config, num_prompts)
    try:
        wall_s = []
        load = random_workload(num_prompts=num_prompts, input_len=input_len, output_len=output_len, min_input_len=min_input_len,
                               vocab_size=engine.loaded.limits.vocab_size, seed=0)
        for repeat in range(warmups + repeats):
            load = random_workload(num_prompts=num_prompts, input_len=input_len, output_len=output_len, seed=repeat,
                                   min_input_len=min_input_len, vocab_size=engine.loaded.limits.vocab_size)
            _, total_s = _run(engine, load)
            wall_s += [total_s] if repeat >= warmups else []
        median_s, limit = statistics.median(wall_s), _measure_limits(config)
        model, dtypes = engine.loaded.model, _dtypes(engine)
        num_output = num_prompts * output_len
        flops = sum(prefill_cost(model, len(prompt), dtypes).flops for prompt in load.prompts)
        flops += output_len * decode_cost(model, input_len, dtypes, num_seqs=num_prompts).flops
        bound = num_output * limit.flops_per_s / flops if limit is not None else None
        figures = [Figure("load", start_s, "s"), Figure("wall time", median_s, "s"),
                   Figure("output tokens", num_output / median_s, "tokens/s", bound),
                   Figure("prompt and output tokens", (load.num_prompt_tokens + num_output) / median_s, "tokens/s"),
                   Figure("peak memory", peak_memory_mib(), "MiB")]
        settings = {"model": config.model, "device": config.device, "num_prompts": num_prompts,
                    "input_len": f"{min_input_len}-{input_len}", "output_len": output_len, "repeats": repeats,
                    "dtype": engine.loaded.resolved.weight_dtype, "kv": engine.loaded.resolved.kv_dtype}
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
    engine = LLMEngine(replace(config, skip_tokenizer_init=True, enable_prefix_caching=False,
                               max_num_seqs=config.max_num_seqs or num_seqs))
    return engine, time.perf_counter() - start_s


def _run(engine: LLMEngine, load: Workload) -> tuple[float, float]:
    """(time to the first token, total time) in seconds."""
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
    return MachineLimits(read_bytes_per_s=statistics.median(limit.read_bytes_per_s for limit in limits),
                         flops_per_s=statistics.median(limit.flops_per_s for limit in limits),
                         description=f"{limits[0].description}; median of {len(limits)}, one before each run")


def _dtypes(engine: LLMEngine) -> Dtypes:
    resolved = engine.loaded.resolved
    return Dtypes(weight=resolved.weight_dtype, act=resolved.act_dtype, kv=resolved.kv_dtype)


def _decode_figure(rate: float, context: int, model: ModelGraph, dtypes: Dtypes, limit: MachineLimits | None) -> Figure:
    """Beside the bandwidth bound: weights and KV read once per token."""
    cost = decode_cost(model, context, dtypes)
    bound = None if limit is None else limit.read_bytes_per_s / (cost.weight_bytes + cost.kv_bytes)
    return Figure("decode, one stream", rate, "tokens/s", bound)


def _prefill_figure(rate: float, input_len: int, model: ModelGraph, dtypes: Dtypes, limit: MachineLimits | None) -> Figure:
    """Beside the arithmetic bound."""
    bound = None if limit is None else limit.flops_per_s * input_len / prefill_cost(model, input_len, dtypes).flops
    return Figure("prefill", rate, "tokens/s", bound)
