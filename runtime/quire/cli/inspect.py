"""`quire inspect`: a model's graph by layer, with FLOPs, bytes, parameters and KV blocks."""

from __future__ import annotations

import argparse
import json

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
    """Prints the report. Reads config.json only, never the weights."""
    from quire.device.registry import resolve_device
    from quire.engine.config import resolve
    from quire.graph.cost import Dtypes
    from quire.graph.passes import optimize
    from quire.graph.report import inspect_model, report_lines
    from quire.graph.shard import shard
    from quire.models import build_model
    from quire.weights.hub import resolve_model

    config = config_from_args(args)
    _check(args)
    spec = build_model(resolve_model(config.model, revision=config.revision))
    backend = resolve_device(config.device, config.device_options)
    resolved = resolve(
        config, backend.capabilities, model_max_len=spec.max_model_len, model_dtype=spec.checkpoint_dtype
    )
    memory_bytes = int(args.memory_gib * 2**30) if args.memory_gib is not None else backend.report.free_memory_bytes
    graph = spec.graph if args.plain else optimize(spec.graph, backend.capabilities.fused_ops)
    found = inspect_model(
        shard(graph, config.tensor_parallel_size),
        dtypes=Dtypes(weight=resolved.weight_dtype, act=resolved.act_dtype, kv=resolved.kv_dtype),
        block_size=resolved.block_size, context=args.context, max_model_len=resolved.max_model_len,
        max_num_seqs=resolved.max_num_seqs, max_num_batched_tokens=resolved.max_num_batched_tokens,
        memory_bytes=int(memory_bytes * resolved.memory_utilization) or None)
    if args.json:
        print(json.dumps(found, indent=2))
        return 0
    print(f"{spec.architecture} ({config.model}) for {backend.name}: {backend.report.name}")
    print("\n".join(report_lines(found)))
    return 0


def _check(args: argparse.Namespace) -> None:
    if args.context < 1:
        raise ConfigError(f"--context {args.context}", because="it counts tokens", try_="a whole number of at least 1")
    if args.memory_gib is not None and not args.memory_gib > 0:
        raise ConfigError(f"--memory-gib {args.memory_gib}", because="nothing fits", try_="a number above 0")
    if args.num_kv_blocks is not None:
        raise ConfigError(f"quire inspect --num-kv-blocks {args.num_kv_blocks}",
                          because="it tells how many blocks fit", try_="the command without it, or --memory-gib")
