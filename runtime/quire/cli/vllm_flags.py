"""Flags of `vllm serve` that Quire does not have, for command lines that were written for it.

What becomes of each is in the table of `quire.engine.vllm_options`: taken and said once, or refused with a reason.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from quire.cli.backend_options import flags_of
from quire.errors import ConfigError

SWITCHES = frozenset((
    "trust_remote_code", "enforce_eager", "disable_log_stats", "disable_log_requests", "enable_log_requests",
    "enable_chunked_prefill", "disable_custom_all_reduce", "enable_expert_parallel", "disable_cascade_attn",
    "use_v2_block_manager", "use_tqdm_on_load", "enable_lora", "enable_sleep_mode", "enable_prompt_embeds",
    "disable_sliding_window", "enable_eplb", "enable_dbo", "numa_bind", "disable_hybrid_kv_cache_manager",
    "disable_chunked_mm_input", "worker_use_ray", "calculate_kv_scales", "enable_mm_embeds", "interleave_mm_strings",
    "mm_encoder_only", "skip_mm_profiling", "fully_sharded_loras", "enable_return_routed_experts",
    "kv_sharing_fast_prefill", "data_parallel_hybrid_lb", "data_parallel_external_lb",
    "disable_mm_preprocessor_cache", "language_model_only",
))  # fmt: skip
"""Flags that stand alone, or as `--no-NAME`; the others of the table have a value."""


def take_vllm_flags(words: Sequence[str], parser: argparse.ArgumentParser) -> list[str]:
    """The command line without vLLM's flags, where the command runs a model; all after "--" stays.

    Raises: ConfigError for a flag that would change an answer, or one without its value.
    """
    known = set(flags_of(parser))
    if "--device-option" not in known:
        return list(words)
    from quire.engine.vllm_options import VLLM_OPTIONS, known_options

    end = words.index("--") if "--" in words else len(words)
    rest: list[str] = []
    pending = iter(words[:end])
    for word in pending:
        flag, equals, value = word.partition("=")
        name = flag.removeprefix("--").replace("-", "_")
        is_off = name.removeprefix("no_") in SWITCHES and name.startswith("no_")
        name = name.removeprefix("no_") if is_off else name
        if not flag.startswith("--") or flag in known or name not in VLLM_OPTIONS:
            rest.append(word)
            continue
        if name not in SWITCHES and not equals:
            value = next(pending, "")
            if not value or value.startswith("--"):
                raise ConfigError(f"{flag} has no value", because=f"vLLM's {flag} is given with one", hint=f"no {flag}")
        known_options({name: not is_off if name in SWITCHES else _read(value)})
    return [*rest, *words[end:]]


def _read(value: str) -> Any:
    """A value as JSON, as vLLM reads what is no plain text, else the text."""
    try:
        return json.loads(value)
    except (ValueError, RecursionError):  # plain text, or nothing that JSON allows
        return value
