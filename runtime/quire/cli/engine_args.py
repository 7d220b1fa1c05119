"""Command-line flags of `EngineConfig`, shared by every command that runs a model."""

from __future__ import annotations

import argparse
from typing import Any

from quire.errors import ConfigError

_DTYPES = ("auto", "float32", "bfloat16", "float16")


def add_engine_arguments(parser: argparse.ArgumentParser, *, model_positional: bool = False) -> None:
    """Adds the flags. `model_positional` takes the model as an optional first word, as `quire serve MODEL`."""
    group = parser.add_argument_group("model and engine")
    if model_positional:
        group.add_argument("model_word", nargs="?", metavar="MODEL", help="folder, hub id, or 'demo'")
    group.add_argument("-m", "--model", default=None, help="folder, hub id, or 'demo' (the built-in model)")
    group.add_argument("--revision", help="branch, tag or commit of a hub model")
    group.add_argument("--tokenizer", help="folder or id of the tokenizer, when it is not the model's")
    group.add_argument("--load-format", default="auto", choices=("auto", "safetensors", "dummy"),
                       help="dummy makes random weights, for benchmarks")
    group.add_argument("-d", "--device", default="auto", help="backend to run on; `quire devices` lists them")
    group.add_argument("--device-option", action="append", default=[], metavar="KEY=VALUE",
                       help="option of the backend, may be repeated (cpu: threads=N)")
    group.add_argument("--strict-device", action="store_true", help="an op the device lacks is an error, not a fallback")
    group.add_argument("--dtype", default="auto", choices=_DTYPES, help="dtype of the weights")
    group.add_argument("--kv-cache-dtype", default="auto", help="dtype of the KV cache")
    group.add_argument("--max-model-len", type=int, help="tokens of the longest sequence; default: the model's")
    group.add_argument("--block-size", type=int, help="tokens per KV block; default: the device's")
    group.add_argument("--max-num-seqs", type=int, help="most sequences in one step; default: the device's")
    group.add_argument("--max-num-batched-tokens", type=int, help="most tokens in one step; default: the device's")
    group.add_argument("--memory-utilization", type=float, help="share of device memory to use; default: the device's")
    group.add_argument("--num-kv-blocks", type=int, help="KV blocks per pool, instead of what fits")
    group.add_argument("--no-enable-prefix-caching", action="store_true", help="compute every prompt from scratch")
    group.add_argument("--scheduling-policy", default="fcfs", choices=("fcfs", "priority"))
    group.add_argument("--no-async-scheduling", action="store_true", help="read each step's tokens before the next step")
    group.add_argument("--max-logprobs", type=int, default=20, help="most logprobs a request may ask for")
    group.add_argument("--seed", type=int, default=0, help="seed of requests that give none")
    group.add_argument("-tp", "--tensor-parallel-size", type=int, default=1, help="devices that share the model")


def config_from_args(args: argparse.Namespace) -> Any:
    """The EngineConfig of parsed flags. Raises ConfigError where they contradict each other."""
    from quire.engine.config import EngineConfig

    word = getattr(args, "model_word", None)
    if word and args.model and word != args.model:
        raise ConfigError(f"two models: {word!r} and --model {args.model!r}", because="only one can run", try_="one of them")
    return EngineConfig(
        model=word or args.model or "demo",
        revision=args.revision,
        tokenizer=args.tokenizer,
        load_format=args.load_format,
        device=args.device,
        device_options=dict(_key_value(pair) for pair in args.device_option),
        strict_device=args.strict_device,
        dtype=args.dtype,
        kv_cache_dtype=args.kv_cache_dtype,
        max_model_len=args.max_model_len,
        block_size=args.block_size,
        max_num_seqs=args.max_num_seqs,
        max_num_batched_tokens=args.max_num_batched_tokens,
        memory_utilization=args.memory_utilization,
        num_kv_blocks=args.num_kv_blocks,
        enable_prefix_caching=not args.no_enable_prefix_caching,
        scheduling_policy=args.scheduling_policy,
        async_scheduling=not args.no_async_scheduling,
        max_logprobs=args.max_logprobs,
        seed=args.seed,
        tensor_parallel_size=args.tensor_parallel_size,
    )


def _key_value(pair: str) -> tuple[str, str]:
    key, separator, value = pair.partition("=")
    if not separator or not key:
        raise ConfigError(f"--device-option {pair!r}", because="it is not KEY=VALUE", try_="--device-option threads=2")
    return key, value
