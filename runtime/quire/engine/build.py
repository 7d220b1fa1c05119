"""From an `EngineConfig` to an engine that runs: checkpoint, graph, device, weights, KV blocks, core."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

from quire.device.contract import Executor, ExecutorPlan, KVPlan, MemoryReport, ParallelRank
from quire.device.registry import LoadedBackend, resolve_device
from quire.engine.config import EngineConfig
from quire.engine.core import EngineCore
from quire.engine.executor_start import start_executor
from quire.engine.input_processor import ModelLimits
from quire.engine.memory_fit import MemoryFit
from quire.engine.quantization import SchemeChoice, choose_schemes, step_dtypes
from quire.engine.resolved_config import ResolvedConfig, resolve
from quire.errors import ConfigError
from quire.files import reading
from quire.graph.cost import scheme_totals
from quire.graph.ir import ModelGraph
from quire.graph.kv_budget import fit_kv_blocks, kv_pools, most_kv_blocks
from quire.graph.passes import optimize
from quire.graph.report import schemes_text
from quire.graph.shard import shard
from quire.models import ModelSpec, build_model, differing_head
from quire.weights import CheckpointFiles, CheckpointWeights, DummyWeights, open_checkpoint, open_weights
from quire.weights.formats.gguf import is_gguf
from quire.weights.hub import resolve_model

logger = logging.getLogger("quire")

MAX_LOGITS_ROWS = 256
"""Rows of one slice of the head: [256, 152k] float32 are 155 MB."""

REFERENCE = "reference"
"""The device that runs what others have no kernel for; it holds quantized weights in float32."""


@dataclass(slots=True)
class LoadedEngine:
    """A core and what a front end must know of it."""

    backend: LoadedBackend
    core: EngineCore
    limits: ModelLimits
    spec: ModelSpec
    model: ModelGraph
    resolved: ResolvedConfig
    memory: MemoryReport
    kv_plan: KVPlan

    def close(self) -> None:
        """Frees the device."""
        self.core.close()


def load_engine(config: EngineConfig) -> LoadedEngine:
    """Loads everything. Raises the QuireError that names what does not fit."""
    start_s = time.monotonic()
    folder = resolve_model(config.model, revision=config.revision)
    if config.load_format == "safetensors" and is_gguf(folder):
        raise ConfigError(
            f"load_format='safetensors' of {folder}",
            because="it is a GGUF file",
            hint="load_format='auto', which takes what is there",
        )
    spec = build_model(folder)
    backend = resolve_device(config.device, config.device_options)
    resolved = resolve(
        config, backend.capabilities, model_max_len=spec.max_model_len, model_dtype=spec.checkpoint_dtype
    )
    files = None if config.load_format == "dummy" else open_checkpoint(folder)
    with reading(folder):
        spec = _with_stored_head(spec, files, folder)
        schemes = choose_schemes(spec, files, config.quantization, backend.capabilities, strict=config.strict_device)
        model = _lowered(config, backend, schemes)
    source = _open_weights(config, resolved, spec, files, folder, model)  # do config and files fit each other?
    with reading(folder):
        _check_memory(config, resolved, backend, spec, files, model)
    plan = _executor_plan(config, resolved, model)
    shares_host_memory = backend.capabilities.shares_host_memory
    started = start_executor(
        backend, plan, source, lambda memory: _kv_plan(config, resolved, model, memory, shares_host_memory)
    )

    def another_executor() -> Executor:
        weights = _open_weights(config, resolved, spec, files, folder, model)
        return start_executor(backend, plan, weights, lambda memory: started.kv_plan).executor

    try:
        core = EngineCore(
            started.executor,
            model,
            started.kv_plan,
            block_size=resolved.block_size,
            max_model_len=resolved.max_model_len,
            max_num_seqs=resolved.max_num_seqs,
            max_num_batched_tokens=resolved.max_num_batched_tokens,
            long_prefill_token_threshold=config.long_prefill_token_threshold,
            enable_prefix_caching=config.enable_prefix_caching,
            scheduling_policy=config.scheduling_policy,
            async_depth=resolved.async_depth,
            max_logprobs=config.max_logprobs,
            seed=config.seed,
            make_executor=another_executor,
            step_timeout_s=config.step_timeout,
        )
    except BaseException:
        started.executor.close()
        raise
    _report(spec, backend, resolved, started.memory, started.kv_plan, time.monotonic() - start_s)
    _report_schemes(model, resolved, schemes.notes)
    limits = ModelLimits(
        model_path=str(folder),
        vocab_size=spec.vocab_size,
        max_model_len=resolved.max_model_len,
        max_num_seqs=resolved.max_num_seqs,
        eos_token_ids=spec.eos_token_ids,
        max_logprobs=config.max_logprobs,
        scheduling_policy=config.scheduling_policy,
    )
    return LoadedEngine(backend, core, limits, spec, model, resolved, started.memory, started.kv_plan)


def _lowered(config: EngineConfig, backend: LoadedBackend, schemes: SchemeChoice) -> ModelGraph:
    return shard(optimize(schemes.model, backend.capabilities.fused_ops), config.tensor_parallel_size)


def _check_memory(
    config: EngineConfig,
    resolved: ResolvedConfig,
    backend: LoadedBackend,
    spec: ModelSpec,
    files: CheckpointFiles | None,
    model: ModelGraph,
) -> None:
    """Raises ConfigError for a model that the device has no memory for."""
    dequantized = () if files is None else files.dequantized
    fit = MemoryFit(
        config,
        resolved,
        backend.capabilities,
        backend.report,
        max_logits_rows=MAX_LOGITS_ROWS,
        conversion_bytes=max((4 * math.prod(files.shape(name)) for name in dequantized), default=0) if files else 0,
        holds_floats=backend.name == REFERENCE,
        quantized=lambda asked: _lowered(config, backend, choose_schemes(spec, files, asked, backend.capabilities)),
    )
    fit.check(model, backend.name)


def _with_stored_head(spec: ModelSpec, files: CheckpointFiles | None, folder: Path) -> ModelSpec:
    """The model with the head that its files hold, where that is not the embedding that the config says it is."""
    head = None if files is None else differing_head(spec.graph, files)
    if head is None:
        return spec
    apart = build_model(folder, tied=False)
    return replace(
        apart,
        notes=(
            *apart.notes,
            f"tie_word_embeddings is true, but the files hold a {head} that differs "
            "from the embedding: it is used, as transformers does",
        ),
    )


def _executor_plan(config: EngineConfig, resolved: ResolvedConfig, model: ModelGraph) -> ExecutorPlan:
    return ExecutorPlan(
        model=model,
        weight_dtype=resolved.weight_dtype,
        act_dtype=resolved.act_dtype,
        kv_dtype=resolved.kv_dtype,
        block_size=resolved.block_size,
        max_model_len=resolved.max_model_len,
        max_num_batched_tokens=resolved.max_num_batched_tokens,
        max_num_seqs=resolved.max_num_seqs,
        max_logits_rows=min(MAX_LOGITS_ROWS, resolved.max_num_batched_tokens),
        strict=config.strict_device,
        parallel=ParallelRank(world_size=config.tensor_parallel_size),
        options=config.device_options,
    )


def _open_weights(
    config: EngineConfig,
    resolved: ResolvedConfig,
    spec: ModelSpec,
    files: CheckpointFiles | None,
    folder: Path,
    model: ModelGraph,
) -> CheckpointWeights | DummyWeights:
    """The weights, checked against the model; none is read yet."""
    return open_weights(
        files,
        model,
        load_format=config.load_format,
        seed=config.seed,
        dtype=resolved.weight_dtype,
        world_size=config.tensor_parallel_size,
        ignorable_tensors=spec.ignorable_tensors,
        where=str(folder),
    )


def _kv_plan(
    config: EngineConfig, resolved: ResolvedConfig, model: ModelGraph, memory: MemoryReport, shares_host_memory: bool
) -> KVPlan:
    """Blocks per pool: what was asked for, else what fits, but of a shared memory no more than the limits can use."""
    if config.num_kv_blocks is not None:
        return KVPlan(num_blocks=dict.fromkeys(kv_pools(model), config.num_kv_blocks))
    used_bytes = sum(memory.bytes_by_purpose.values())
    budget_bytes = int((used_bytes + memory.available_bytes) * resolved.memory_utilization) - used_bytes
    limits = {
        "block_size": resolved.block_size,
        "max_model_len": resolved.max_model_len,
        "max_num_seqs": resolved.max_num_seqs,
        "max_num_batched_tokens": resolved.max_num_batched_tokens,
    }
    num_blocks = fit_kv_blocks(model, budget_bytes, kv_dtype=resolved.kv_dtype, **limits)
    if shares_host_memory and config.memory_utilization is None:
        most = most_kv_blocks(model, **limits)
        num_blocks = {pool: min(count, most[pool]) for pool, count in num_blocks.items()}
    return KVPlan(num_blocks=num_blocks)


def _report(
    spec: ModelSpec,
    backend: LoadedBackend,
    resolved: ResolvedConfig,
    memory: MemoryReport,
    kv_plan: KVPlan,
    seconds: float,
) -> None:
    """What runs where: the placement of ops, and every resolved number."""
    logger.info("%s on %s (%s), loaded in %.2f s", spec.architecture, backend.name, backend.report.name, seconds)
    for name, reason in backend.passed_over:
        logger.info("device %s was passed over: %s", name, reason)
    for note in spec.notes:
        logger.warning("%s", note)
    fallbacks = [op for op, where in memory.placement if where == REFERENCE] if backend.name != REFERENCE else []
    if fallbacks:
        logger.warning(
            "ops on the slow numpy reference: %s (--strict-device refuses this)", ", ".join(sorted(fallbacks))
        )
    for op, where in memory.placement:
        if where.endswith(")"):
            logger.warning("%s on %s", op, where)
    logger.info("%s", ", ".join(resolved.lines()))
    logger.info(
        "memory: %s; KV blocks: %s",
        ", ".join(f"{k} {v / 2**20:.0f} MiB" for k, v in memory.bytes_by_purpose.items()),
        ", ".join(f"{pool} {n}" for pool, n in kv_plan.num_blocks.items()),
    )


def _report_schemes(model: ModelGraph, resolved: ResolvedConfig, notes: tuple[str, ...]) -> None:
    """What is held in which quantization scheme."""
    logger.info("weights: %s", schemes_text(scheme_totals(model, step_dtypes(resolved, model)), resolved.weight_dtype))
    for note in notes:
        logger.warning("%s (--strict-device refuses this)", note)
