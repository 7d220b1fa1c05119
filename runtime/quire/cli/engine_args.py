"""Command-line flags of `EngineConfig`, shared by every command that runs a model.

A flag's destination is the field's name and its default the field's default.
"""

from __future__ import annotations

import argparse
from argparse import BooleanOptionalAction
from typing import TYPE_CHECKING

from quire.errors import ConfigError

if TYPE_CHECKING:
    from quire.engine.config import EngineConfig

LOG_LEVELS = ("critical", "error", "warning", "info", "debug")


def add_engine_arguments(
    parser: argparse.ArgumentParser, *, model_positional: bool = False, log_level: str = "warning"
) -> None:
    """Adds the flags. `model_positional` takes the model as an optional first word, as `quire serve MODEL`."""
    group = parser.add_argument_group(
        "model and engine",
        "Options of a backend are flags too: --NAME-KEY VALUE, for example --cpu-threads 2; "
        "`quire devices` lists the backends.",
    )
    if model_positional:
        group.add_argument(
            "model_word", nargs="?", metavar="MODEL", help="folder, .gguf file, hub id, or 'demo' (the built-in model)"
        )
    add = group.add_argument
    add("-m", "--model", help="folder, .gguf file, hub id, or 'demo' (the built-in model)")
    add("--revision", help="branch, tag or commit of a hub model")
    add("--tokenizer", help="folder or id of the tokenizer, when it is not the model's")
    add("--skip-tokenizer-init", action="store_true", help="token ids only")
    add("--chat-template", metavar="FILE", help="Jinja template, instead of the model's own")
    add(
        "--load-format",
        default="auto",
        choices=("auto", "safetensors", "dummy"),
        help="dummy makes random weights, for benchmarks",
    )
    add("-d", "--device", default="auto", help="backend to run on; auto takes the best one that is usable")
    add(
        "--device-option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="option of the backend, may be repeated",
    )
    add(
        "--strict-device",
        action="store_true",
        help="an op, or a scheme of stored integers, that the device lacks is an error, not a fallback",
    )
    add(
        "-q",
        "--quantization",
        metavar="SCHEME",
        help="quantize weights as they load: int8, int4, int8_g32, int4_g64, ...; default: as the checkpoint has them",
    )
    add("--dtype", default="auto", help="dtype of the weights: auto, float32, bfloat16 or float16")
    add("--kv-cache-dtype", default="auto", help="dtype of the KV cache")
    add("--max-model-len", type=int, help="tokens of the longest sequence; default: the model's")
    add("--block-size", type=int, help="tokens per KV block; default: the device's")
    add("--max-num-seqs", type=int, help="most sequences in one step; default: the device's")
    add("--max-num-batched-tokens", type=int, help="most tokens in one step; default: the device's")
    add(
        "--long-prefill-token-threshold",
        type=int,
        default=0,
        help="most prompt tokens of one sequence in one step; 0 = no limit",
    )
    add(
        "--memory-utilization",
        "--gpu-memory-utilization",
        type=float,
        help="share of device memory to use; default: the device's",
    )
    add("--num-kv-blocks", "--num-gpu-blocks-override", type=int, help="KV blocks per pool, instead of what fits")
    add(
        "--enable-prefix-caching",
        action=BooleanOptionalAction,
        default=True,
        help="reuse KV blocks of equal prompt beginnings",
    )
    add("--scheduling-policy", default="fcfs", choices=("fcfs", "priority"), help="order of requests")
    add(
        "--async-scheduling",
        action=BooleanOptionalAction,
        default=True,
        help="submit a step before the last one's tokens are read",
    )
    add("--max-logprobs", type=int, default=20, help="most logprobs a request may ask for")
    add(
        "--step-timeout",
        type=float,
        default=600.0,
        metavar="SECONDS",
        help="a step that takes longer is lost, and another executor is made; 0 = never",
    )
    add("--seed", type=int, default=0, help="seed of requests that give none")
    add("-tp", "--tensor-parallel-size", type=int, default=1, help="devices that share the model")
    add("--log-level", default=log_level, choices=LOG_LEVELS, help="what is logged to standard error")


def config_from_args(args: argparse.Namespace) -> EngineConfig:
    """The EngineConfig of parsed flags. Raises ConfigError where they contradict each other."""
    from dataclasses import fields

    from quire.engine.config import EngineConfig

    word = getattr(args, "model_word", None)
    if word is not None and args.model is not None and word != args.model:
        raise ConfigError(
            f"two models: {word!r} and --model {args.model!r}", because="only one can run", hint="one of them"
        )
    model = next((name for name in (word, args.model) if name is not None), "demo")
    values = {field.name: getattr(args, field.name) for field in fields(EngineConfig) if hasattr(args, field.name)}
    device, options = _device_and_options(args)
    return EngineConfig(**{**values, "model": model, "device": device, "device_options": options})


def _device_and_options(args: argparse.Namespace) -> tuple[str, dict[str, str]]:
    """The device, and its options from both kinds of flags; a backend's flag decides nothing about the device."""
    device, chosen = args.device, ""
    options = dict(_key_value(pair) for pair in args.device_option)
    if args.backend_options and device == "auto":
        from quire.device.registry import resolve_device

        device, chosen = resolve_device("auto").name, ", chosen by auto"
    for option in args.backend_options:
        if option.device != device:
            raise ConfigError(
                f"{option.flag} is an option of device {option.device}",
                because=f"the device is {device}{chosen}",
                hint=f"--device {option.device}, or the command without {option.flag}",
            )
        if options.get(option.key, option.value) != option.value:
            raise ConfigError(
                f"two values of device option {option.key}",
                because=f"one is {options[option.key]!r}, the other {option.value!r}",
                hint="one of them",
            )
        options[option.key] = option.value
    return device, options


def _key_value(pair: str) -> tuple[str, str]:
    key, separator, value = pair.partition("=")
    if not separator or not key:
        raise ConfigError(f"--device-option {pair!r}", because="it is not KEY=VALUE", hint="--device-option threads=2")
    return key, value
