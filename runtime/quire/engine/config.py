"""Configuration of an engine: what the user said, and what it resolves to on a device.

`EngineConfig` holds the user's words; `None` and "auto" mean "you choose". `resolve` turns them, the model
and the device's capabilities into a `ResolvedConfig` once; nothing writes configuration after that.
"""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from quire.device.capabilities import Capabilities
from quire.engine.vllm_options import known_options
from quire.errors import ConfigError
from quire.field_ranges import INT32_MAX, shown

DTYPES = ("auto", "float32", "bfloat16", "float16")
_SHORT_DTYPES = {"float": "float32", "half": "float16", "fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineConfig:
    """What an engine is asked to be. Names follow `vllm serve` where the meaning is the same.

    Attributes:
        model: local folder, hub id, or "demo". revision: branch, tag or commit of a hub model.
        tokenizer: folder or id when it differs from `model`. skip_tokenizer_init: token ids only.
        chat_template: a Jinja template or a file that holds one, instead of the model's own.
        load_format: "auto", "safetensors", or "dummy" (random weights).
        device: entry point name of a backend, or "auto". device_options: passed to it; strict_device: no fallbacks.
        quantization: scheme that weights are quantized into as they load: "int8", "int4", or a scheme's whole name; or
            the format of a checkpoint that is quantized already. None = as the checkpoint has them.
        dtype: dtype of the weights that are not quantized. kv_cache_dtype: of the KV cache.
        max_model_len: tokens of the longest sequence. block_size: tokens per KV block.
        max_num_seqs, max_num_batched_tokens: limits of one step.
        long_prefill_token_threshold: most prompt tokens of one sequence in one step; 0 = no limit.
        memory_utilization: share of the device's memory for weights, activations and KV together.
        num_kv_blocks: overrides the number of KV blocks per pool (tests, experiments).
        enable_prefix_caching, scheduling_policy, async_scheduling: see the scheduler.
        max_logprobs: most logprobs a request may ask for.
        seed: of requests that give none. tensor_parallel_size: devices that share the model.
        step_timeout: seconds after which a step counts as lost and another executor is made; 0 = never.
    Raises: ConfigError that names the field.
    """

    model: str = "demo"
    revision: str | None = None
    tokenizer: str | None = None
    skip_tokenizer_init: bool = False
    chat_template: str | None = None
    load_format: Literal["auto", "safetensors", "dummy"] = "auto"
    device: str = "auto"
    device_options: Mapping[str, str] = field(default_factory=dict)
    strict_device: bool = False
    quantization: str | None = None
    dtype: str = "auto"
    kv_cache_dtype: str = "auto"
    max_model_len: int | None = None
    block_size: int | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    long_prefill_token_threshold: int = 0
    memory_utilization: float | None = None
    num_kv_blocks: int | None = None
    enable_prefix_caching: bool = True
    scheduling_policy: Literal["fcfs", "priority"] = "fcfs"
    async_scheduling: bool = True
    max_logprobs: int = 20
    seed: int = 0
    tensor_parallel_size: int = 1
    step_timeout: float = 600.0

    def __post_init__(self) -> None:
        for name in ("model", "device", "dtype", "kv_cache_dtype", "load_format", "scheduling_policy"):
            object.__setattr__(self, name, _text(name, getattr(self, name)))
        for name in ("revision", "tokenizer", "chat_template", "quantization"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _text(name, getattr(self, name)))
        for name in ("skip_tokenizer_init", "strict_device", "enable_prefix_caching", "async_scheduling"):
            _require_bool(name, getattr(self, name))
        object.__setattr__(self, "dtype", _SHORT_DTYPES.get(self.dtype, self.dtype))
        object.__setattr__(self, "kv_cache_dtype", _SHORT_DTYPES.get(self.kv_cache_dtype, self.kv_cache_dtype))
        _require_one_of("dtype", self.dtype, DTYPES)
        _require_one_of("load_format", self.load_format, ("auto", "safetensors", "dummy"))
        _require_one_of("scheduling_policy", self.scheduling_policy, ("fcfs", "priority"))
        if not isinstance(self.device_options, Mapping):
            raise ConfigError(
                f"device_options={self.device_options!r}",
                because="they have names",
                hint="a mapping such as {'threads': '4'}",
            )
        object.__setattr__(
            self, "device_options", {key: _option_text(value) for key, value in self.device_options.items()}
        )
        for name in ("max_model_len", "block_size", "max_num_seqs", "max_num_batched_tokens", "num_kv_blocks"):
            _require_count(name, getattr(self, name), 1, optional=True)
        for name in ("max_logprobs", "long_prefill_token_threshold"):
            _require_count(name, getattr(self, name), 0)
        _require_count("tensor_parallel_size", self.tensor_parallel_size, 1)
        share = self.memory_utilization
        if share is not None and (isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 1):
            raise ConfigError(
                f"memory_utilization={share!r}",
                because="it is a share of device memory",
                hint="a value in (0, 1], for example 0.9",
            )
        seconds = self.step_timeout
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds < math.inf:
            raise ConfigError(
                f"step_timeout={seconds!r}", because="it is a time in seconds", hint="600, or 0 to wait for ever"
            )
        if not isinstance(self.seed, int) or isinstance(self.seed, bool) or not 0 <= self.seed < 2**64:
            raise ConfigError(f"seed={self.seed!r}", because="seeds are unsigned 64-bit", hint="a value in [0, 2**64)")

    @classmethod
    def from_options(cls, **options: Any) -> EngineConfig:
        """As the constructor, for options that vLLM's users know: see `vllm_options`. None means left out.

        Raises: ConfigError for an unknown option, naming the nearest one, or for one that cannot be honoured.
        """
        known = [field.name for field in fields(cls)]
        options = known_options(options)
        for name in options:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                raise ConfigError(
                    f"option {name!r} is not known",
                    because="EngineConfig has no such field",
                    hint=near[0] if near else f"one of {', '.join(known)}",
                )
        return cls(**options)


@dataclass(frozen=True, kw_only=True, slots=True)
class ResolvedConfig:
    """What an engine runs with: no `None`, no "auto"."""

    weight_dtype: str
    act_dtype: str
    kv_dtype: str
    max_model_len: int
    block_size: int
    max_num_seqs: int
    max_num_batched_tokens: int
    memory_utilization: float
    async_depth: int

    def lines(self) -> list[str]:
        """For the start-up report."""
        return [f"{name} = {getattr(self, name)}" for name in self.__dataclass_fields__]


def resolve(
    config: EngineConfig, capabilities: Capabilities, *, model_max_len: int, model_dtype: str
) -> ResolvedConfig:
    """The configuration that runs.

    Args:
        model_max_len: longest sequence the model was made for. model_dtype: dtype of its checkpoint.
    Raises: ConfigError when the user's words and the device's or model's abilities do not meet.
    """
    if config.tensor_parallel_size > capabilities.max_tp:
        raise ConfigError(
            f"tensor_parallel_size={config.tensor_parallel_size}",
            because=f"the device declares max_tp={capabilities.max_tp}",
            hint=f"--tensor-parallel-size {capabilities.max_tp}",
        )
    max_model_len = config.max_model_len or model_max_len
    if max_model_len > model_max_len:
        raise ConfigError(
            f"max_model_len={max_model_len}",
            because=f"the model was made for {model_max_len} tokens",
            hint=f"--max-model-len {model_max_len} or less",
        )
    max_num_seqs = _limit("max_num_seqs", config.max_num_seqs, capabilities.max_num_seqs, capabilities.default_num_seqs)
    max_num_batched_tokens = _limit(
        "max_num_batched_tokens",
        config.max_num_batched_tokens,
        capabilities.max_num_batched_tokens,
        capabilities.default_num_batched_tokens,
    )
    if max_num_batched_tokens < max_num_seqs:
        if config.max_num_seqs is not None:
            raise ConfigError(
                f"max_num_batched_tokens={max_num_batched_tokens} is below max_num_seqs={max_num_seqs}",
                because="every running sequence needs one token a step",
                hint=f"--max-num-batched-tokens {max_num_seqs}, or fewer sequences",
            )
        max_num_seqs = max_num_batched_tokens
    weight_dtype = _choose("dtype", config.dtype, capabilities.weight_dtypes, model_dtype)
    act_dtype = weight_dtype if weight_dtype in capabilities.act_dtypes else capabilities.act_dtypes[0]
    return ResolvedConfig(
        weight_dtype=weight_dtype,
        act_dtype=act_dtype,
        kv_dtype=_choose("kv_cache_dtype", config.kv_cache_dtype, capabilities.kv_dtypes, weight_dtype),
        max_model_len=max_model_len,
        block_size=_choose_block_size(config.block_size, capabilities),
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        memory_utilization=config.memory_utilization or capabilities.default_memory_utilization,
        async_depth=capabilities.async_depth if config.async_scheduling else 1,
    )


def _require_count(name: str, value: Any, least: int, *, optional: bool = False) -> None:
    if optional and value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= INT32_MAX:
        raise ConfigError(
            f"{name}={shown(value)}",
            because="it is a count",
            hint=f"a whole number of at least {least} and at most {INT32_MAX}",
        )


def _text(name: str, value: Any) -> str:
    """A field's text; paths are taken. An empty one is a mistake, such as a shell variable that is not set."""
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(text, str) or not text:
        raise ConfigError(
            f"{name}={value!r}", because="it is a text that is not empty", hint=f"{name} left out, or a text"
        )
    return text


def _require_bool(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise ConfigError(f"{name}={value!r}", because="it is on or off", hint="True or False")


def _option_text(value: object) -> str:
    """Device options are texts, as a command line gives them."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _require_one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{name}={value!r}", because="it is not one Quire knows", hint=f"one of {', '.join(allowed)}")


def _limit(name: str, asked: int | None, most: int | None, default: int) -> int:
    if asked is not None and most is not None and asked > most:
        raise ConfigError(
            f"{name}={asked}", because=f"the device takes at most {most}", hint=f"--{name.replace('_', '-')} {most}"
        )
    return asked if asked is not None else min(default, most) if most is not None else default


def _choose(name: str, asked: str, offered: tuple[str, ...], natural: str) -> str:
    """The asked dtype, or for "auto" the natural one where the device offers it, else its first."""
    if asked == "auto":
        return natural if natural in offered else offered[0]
    if asked not in offered:
        raise ConfigError(
            f"{name}={asked!r}",
            because=f"the device offers {', '.join(offered)}",
            hint=f"--{name.replace('_', '-')} {offered[0]}",
        )
    return asked


def _choose_block_size(asked: int | None, capabilities: Capabilities) -> int:
    if asked is None:
        return capabilities.block_sizes[0]
    if asked not in capabilities.block_sizes:
        raise ConfigError(
            f"block_size={asked}",
            because=f"the device offers {', '.join(map(str, capabilities.block_sizes))}",
            hint=f"--block-size {capabilities.block_sizes[0]}",
        )
    return asked
