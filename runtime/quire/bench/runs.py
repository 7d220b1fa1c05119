"""Timed runs of an engine: one stream, and many requests at once. Every figure stands beside the machine's limit."""

from __future__ import annotations

import statistics
import time
from dataclasses import replace

from quire.bench.bounds import arithmetic_peak, batch_operations, decode_bytes, median_limits, prefill_operations
from quire.bench.memory import memory_use
from quire.bench.report import Figure, Report
from quire.bench.workload import Workload, random_workload
from quire.device.capabilities import MachineLimits
from quire.engine.config import EngineConfig
from quire.engine.llm_engine import LLMEngine
from quire.sampling_params import SamplingParams


def run_latency(config: EngineConfig, *, input_len: int, output_len: int, repeats: int, warmups: int = 1) -> Report:
    """One request at a time: time to first token, decode and prefill rates; medians over `repeats`."""
    engine, start_s = _start(config, 1)
    try:
        prefill_s, decode_s, measured = [], [], []
        for repeat in range(warmups + repeats):
            load = random_workload(
                num_prompts=1,
                input_len=input_len,
                output_len=output_len,
                seed=repeat,
                vocab_size=engine.loaded.limits.vocab_size,
            )
            limits = engine.loaded.backend.measure_limits()
            first_s, total_s = run_once(engine, load)
            if repeat >= warmups:
                prefill_s.append(first_s)
                decode_s.append((total_s - first_s) / max(output_len - 1, 1))
                measured += [limits] if limits is not None else []
        limit = median_limits(measured)
        figures = [
            Figure("load", start_s, "s"),
            Figure("time to first token", statistics.median(prefill_s) * 1e3, "ms"),
            _prefill_figure(engine, input_len, input_len / statistics.median(prefill_s), limit),
            *_decode_figures(engine, input_len + output_len // 2, 1 / statistics.median(decode_s), limit),
            *_memory_figures(),
        ]
        settings = {"input_len": input_len, "output_len": output_len, "repeats": repeats}
        return Report("latency, one request at a time", {**_settings(config, engine), **settings}, figures, limit)
    finally:
        engine.close()


def run_throughput(
    config: EngineConfig, *, num_prompts: int, min_input_len: int, input_len: int, output_len: int, repeats: int
) -> Report:
    """All requests at once: output and total tokens per second of wall time; medians over `repeats`."""
    engine, start_s = _start(config, num_prompts)
    try:
        wall_s, measured = [], []
        for repeat in range(repeats):
            load = random_workload(
                num_prompts=num_prompts,
                min_input_len=min_input_len,
                input_len=input_len,
                output_len=output_len,
                seed=repeat,
                vocab_size=engine.loaded.limits.vocab_size,
            )
            limits = engine.loaded.backend.measure_limits()
            measured += [limits] if limits is not None else []
            wall_s.append(run_once(engine, load)[1])
        median_s, limit = statistics.median(wall_s), median_limits(measured)
        num_output = num_prompts * output_len
        bound, name = None, ""
        if limit is not None:
            peak, name = arithmetic_peak(engine.loaded, limit)
            bound = num_output * peak / batch_operations(engine.loaded, load)
        figures = [
            Figure("load", start_s, "s"),
            Figure("wall time", median_s, "s"),
            Figure("output tokens", num_output / median_s, "tokens/s", bound, name),
            Figure("prompt and output tokens", (load.num_prompt_tokens + num_output) / median_s, "tokens/s"),
            *_memory_figures(),
        ]
        settings = {
            "num_prompts": num_prompts,
            "input_len": f"{min_input_len}-{input_len}",
            "output_len": output_len,
            "repeats": repeats,
        }
        return Report("throughput, all requests at once", {**_settings(config, engine), **settings}, figures, limit)
    finally:
        engine.close()


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


def _start(config: EngineConfig, num_seqs: int) -> tuple[LLMEngine, float]:
    start_s = time.perf_counter()
    engine = LLMEngine(
        replace(
            config, skip_tokenizer_init=True, enable_prefix_caching=False, max_num_seqs=config.max_num_seqs or num_seqs
        )
    )
    return engine, time.perf_counter() - start_s


def _settings(config: EngineConfig, engine: LLMEngine) -> dict[str, object]:
    resolved = engine.loaded.resolved
    return {
        "model": config.model,
        "device": engine.loaded.backend.name,
        "dtype": resolved.weight_dtype,
        "quantization": config.quantization or "as stored",
        "kv": resolved.kv_dtype,
    }


def _prefill_figure(engine: LLMEngine, input_len: int, rate: float, limit: MachineLimits | None) -> Figure:
    if limit is None:
        return Figure("prefill", rate, "tokens/s")
    peak, name = arithmetic_peak(engine.loaded, limit)
    return Figure("prefill", rate, "tokens/s", peak * input_len / prefill_operations(engine.loaded, input_len), name)


def _decode_figures(engine: LLMEngine, context: int, rate: float, limit: MachineLimits | None) -> list[Figure]:
    """The rate, and what it reads of weights and KV beside the bandwidth of one stream a thread."""
    name = "decode, one stream"
    if limit is None:
        return [Figure(name, rate, "tokens/s")]
    num_bytes = decode_bytes(engine.loaded, context)
    figures = [Figure(name, rate, "tokens/s", limit.read_bytes_per_s / num_bytes, "read")]
    if limit.single_stream_bytes_per_s is not None:
        figures.append(
            Figure(
                "decode, weights and KV read",
                rate * num_bytes / 1e9,
                "GB/s",
                limit.single_stream_bytes_per_s / 1e9,
                "read, one stream a thread",
            )
        )
    return figures


def _memory_figures() -> list[Figure]:
    use = memory_use()
    figures = [Figure("peak memory", use.peak_bytes / 2**20, "MiB")]
    if use.private_bytes is not None:
        figures.append(Figure("private memory now", use.private_bytes / 2**20, "MiB"))
    return figures
