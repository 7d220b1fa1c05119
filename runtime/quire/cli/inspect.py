"""`quire inspect`: a model's graph by layer, with FLOPs, bytes, parameters and KV blocks."""

from __future__ import annotations

import argparse
import json
import sys

from quire.cli.engine_args import add_engine_arguments, config_from_args
from quire.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `quire inspect`."""
    add_engine_arguments(parser, model_positional=True)
    parser.add_argument("--context", type=int, default=1024, help="tokens in the KV cache for the decode figures")
    parser.add_argument("--memory-gib", type=float, help="memory of one device to plan for; default: what is free")
    parser.add_argument("--plain", action="store_true", help="the graph before the device's fusions")
    parser.add_argument("--json", action="store_true", help="machine-readable output")


def run(args: argparse.Namespace) -> int:
    """Prints the report. Reads config.json, of a quantized checkpoint the names of its tensors too; never weights."""
    from quire.device.registry import resolve_device
    from quire.engine.quantization import choose_schemes, step_dtypes
    from quire.engine.resolved_config import resolve
    from quire.graph.passes import optimize
    from quire.graph.report import inspect_model, report_lines
    from quire.graph.shard import shard
    from quire.models import build_model
    from quire.weights import open_checkpoint
    from quire.weights.hub import resolve_model

    config = config_from_args(args)
    _check(args)
    folder = resolve_model(config.model, revision=config.revision)
    spec = build_model(folder)
    backend = resolve_device(config.device, config.device_options)
    resolved = resolve(
        config, backend.capabilities, model_max_len=spec.max_model_len, model_dtype=spec.checkpoint_dtype
    )
    memory_bytes = int(args.memory_gib * 2**30) if args.memory_gib is not None else backend.report.free_memory_bytes
    holds_integers = spec.quantization_config is not None and config.load_format != "dummy"
    schemes = choose_schemes(
        spec,
        open_checkpoint(folder) if holds_integers else None,
        config.quantization,
        backend.capabilities,
        strict=config.strict_device,
    )
    graph = schemes.model if args.plain else optimize(schemes.model, backend.capabilities.fused_ops)
    model = shard(graph, config.tensor_parallel_size)
    found = inspect_model(
        model,
        dtypes=step_dtypes(resolved, model),
        block_size=resolved.block_size,
        context=args.context,
        max_model_len=resolved.max_model_len,
        max_num_seqs=resolved.max_num_seqs,
        max_num_batched_tokens=resolved.max_num_batched_tokens,
        memory_bytes=int(memory_bytes * resolved.memory_utilization) or None,
    )
    for note in schemes.notes:
        print(f"warning: {note}", file=sys.stderr)
    if args.json:
        print(json.dumps(found, indent=2))
        return 0
    print(f"{spec.architecture} ({config.model}) for {backend.name}: {backend.report.name}")
    print("\n".join(report_lines(found)))
    return 0


def _check(args: argparse.Namespace) -> None:
    if args.context < 1:
        raise ConfigError(f"--context {args.context}", because="it counts tokens", hint="a whole number of at least 1")
    if args.memory_gib is not None and not args.memory_gib > 0:
        raise ConfigError(f"--memory-gib {args.memory_gib}", because="nothing fits", hint="a number above 0")
    if args.num_kv_blocks is not None:
        raise ConfigError(
            f"quire inspect --num-kv-blocks {args.num_kv_blocks}",
            because="it tells how many blocks fit",
            hint="the command without it, or --memory-gib",
        )
