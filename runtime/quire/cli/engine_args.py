"""Command-line flags of `EngineConfig`, shared by every command that runs a model.

All but the model's are derived from the options of its fields (`quire.options`).
"""

from __future__ import annotations

import argparse

from quire.engine.config import EngineConfig
from quire.errors import ConfigError
from quire.options import add_flags, options_of

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
    add(
        "--device-option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="option of the backend, may be repeated",
    )
    add_flags(group, EngineConfig)
    add("--log-level", default=log_level, choices=LOG_LEVELS, help="what is logged to standard error")


def config_from_args(args: argparse.Namespace) -> EngineConfig:
    """The EngineConfig of parsed flags. Raises ConfigError where they contradict each other."""
    word = getattr(args, "model_word", None)
    if word is not None and args.model is not None and word != args.model:
        raise ConfigError(
            f"two models: {word!r} and --model {args.model!r}", because="only one can run", hint="one of them"
        )
    model = next((name for name in (word, args.model) if name is not None), "demo")
    values = {item.name: getattr(args, item.name) for item in options_of(EngineConfig) if hasattr(args, item.name)}
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
