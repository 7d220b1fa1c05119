"""What an engine is asked to be: `EngineConfig` holds the user's words, and nothing writes to it.

`None` and "auto" mean "you choose": `quire.engine.resolved_config` does, from the model and the device.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from quire.engine.vllm_options import known_options
from quire.errors import ConfigError
from quire.options import Count, Seconds, Share, Switch, Text, Texts, aliases_of, check_options, option, options_of

DTYPES = ("auto", "float32", "bfloat16", "float16")
_SHORT_DTYPES = {"float": "float32", "half": "float16", "fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
_THE_DEVICES = "the device's"


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineConfig:
    """What an engine is asked to be. Each field says itself what it means; names are those of `vllm serve`.

    Raises: ConfigError that names the field.
    """

    model: str = option(
        "demo", "folder, .gguf file, hub id, or 'demo' (the built-in model)", Text(), flag=""
    )  # its flag is made by hand: the model may be a word of its own
    revision: str | None = option(None, "branch, tag or commit of a hub model", Text())
    tokenizer: str | None = option(None, "folder or id of the tokenizer, when it is not the model's", Text())
    skip_tokenizer_init: bool = option(False, "token ids only", Switch())
    chat_template: str | None = option(
        None, "Jinja template, instead of the model's own", Text(), metavar="FILE", default_text="the model's"
    )
    load_format: Literal["auto", "safetensors", "dummy"] = option(
        "auto",
        "dummy makes random weights, for benchmarks",
        Text(choices=("auto", "safetensors", "dummy")),
        is_listed=True,
    )
    device: str = option("auto", "backend to run on; auto takes the best one that is usable", Text(), short="-d")
    device_options: Mapping[str, str] = option(dict, "options of the backend", Texts(), flag="")
    strict_device: bool = option(
        False,
        "an op, or a scheme of stored integers, that the device lacks is an error, not a fallback",
        Switch(),
    )
    quantization: str | None = option(
        None,
        "quantize weights as they load: int8, int4, int8_g32, int4_g64, ...",
        Text(),
        short="-q",
        metavar="SCHEME",
        default_text="as the checkpoint has them",
    )
    dtype: str = option("auto", "dtype of the weights: auto, float32, bfloat16 or float16", Text(DTYPES, _SHORT_DTYPES))
    kv_cache_dtype: str = option("auto", "dtype of the KV cache", Text(short=_SHORT_DTYPES))
    max_model_len: int | None = option(
        None, "tokens of the longest sequence, prompt and answer", Count(1), default_text="the model's"
    )
    block_size: int | None = option(None, "tokens per KV block", Count(1), default_text=_THE_DEVICES)
    max_num_seqs: int | None = option(None, "most sequences in one step", Count(1), default_text=_THE_DEVICES)
    max_num_batched_tokens: int | None = option(
        None,
        "most tokens in one step; long prompts go in chunks of what is left of it",
        Count(1),
        default_text=_THE_DEVICES,
    )
    long_prefill_token_threshold: int = option(
        0, "most prompt tokens of one sequence in one step; 0 = no limit", Count(0)
    )
    memory_utilization: float | None = option(
        None,
        "share of device memory for weights, activations and KV cache",
        Share("device memory"),
        aliases=("gpu_memory_utilization",),
        default_text=_THE_DEVICES,
    )
    num_kv_blocks: int | None = option(
        None, "KV blocks per pool", Count(1), aliases=("num_gpu_blocks_override",), default_text="what fits"
    )
    enable_prefix_caching: bool = option(True, "reuse KV blocks of equal prompt beginnings", Switch())
    scheduling_policy: Literal["fcfs", "priority"] = option(
        "fcfs",
        "order of requests; priority: a request's `priority`, lower first",
        Text(choices=("fcfs", "priority")),
        is_listed=True,
    )
    async_scheduling: bool = option(True, "submit a step before the last one's tokens are read", Switch())
    max_logprobs: int = option(20, "most logprobs a request may ask for", Count(0))
    step_timeout: float = option(
        600.0,
        "a step that takes longer is lost, and another executor is made; 0 = never",
        Seconds(or_zero=True),
        metavar="SECONDS",
    )
    seed: int = option(0, "seed of requests that give none", Count(0, 2**64 - 1, because="seeds are unsigned 64-bit"))
    tensor_parallel_size: int = option(1, "devices that share the model", Count(1), short="-tp")

    def __post_init__(self) -> None:
        check_options(self)

    @classmethod
    def from_options(cls, **options: Any) -> EngineConfig:
        """As the constructor, for options that vLLM's users know: see `vllm_options`. None means left out.

        Raises: ConfigError for an unknown option, naming the nearest one, or for one that cannot be honoured.
        """
        known = [item.name for item in options_of(cls)]
        options = known_options(options, aliases_of(cls))
        for name in options:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                raise ConfigError(
                    f"option {name!r} is not known",
                    because="EngineConfig has no such field",
                    hint=near[0] if near else f"one of {', '.join(known)}",
                )
        return cls(**options)
