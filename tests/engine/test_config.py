"""What the user said, and what it resolves to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quire.engine.config import EngineConfig
from quire.engine.resolved_config import resolve
from quire.errors import ConfigError
from quire.testing.fake_device import fake_capabilities

CAPABILITIES = fake_capabilities()


def resolved(config: EngineConfig, **capabilities: Any) -> Any:
    return resolve(config, replace(CAPABILITIES, **capabilities), model_max_len=1000, model_dtype="bfloat16")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dtype", "int3"),
        ("load_format", "gguf"),
        ("scheduling_policy", "lottery"),
        ("max_model_len", 0),
        ("block_size", -1),
        ("max_num_seqs", True),
        ("max_num_batched_tokens", 1.5),
        ("num_kv_blocks", "7"),
        ("memory_utilization", 0.0),
        ("memory_utilization", 1.1),
        ("seed", -1),
        ("seed", 2**64),
        ("max_logprobs", -1),
        ("tensor_parallel_size", 0),
        ("long_prefill_token_threshold", -1),
        ("memory_utilization", "0.9"),
        ("memory_utilization", True),
        ("seed", "3"),
        ("seed", True),
        ("model", None),
        ("model", ""),
        ("tokenizer", ""),
        ("chat_template", 5),
        ("revision", 5),
        ("device", None),
        ("dtype", None),
        ("device_options", None),
        ("enable_prefix_caching", "no"),
        ("skip_tokenizer_init", "false"),
        ("strict_device", 1),
        ("async_scheduling", 0),
    ],
)
def test_wrong_values_are_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=field) as caught:
        EngineConfig(**{field: value})
    assert caught.value.because


def test_paths_are_texts(tmp_path: Path) -> None:
    config = EngineConfig(model=tmp_path, tokenizer=tmp_path)  # type: ignore[arg-type]
    assert (config.model, config.tokenizer) == (str(tmp_path), str(tmp_path))


def test_unknown_options_are_refused_with_the_nearest_name() -> None:
    for given, meant in (("max_model_length", "max_model_len"), ("memory_utilisation", "memory_utilization")):
        with pytest.raises(ConfigError, match=f"'{given}' is not known\n.*\n  hint: {meant}$"):
            EngineConfig.from_options(**{given: 1})
    assert EngineConfig.from_options(model="m", seed=3) == EngineConfig(model="m", seed=3)


def test_short_dtypes_and_device_options_are_normalised() -> None:
    config = EngineConfig(dtype="half", kv_cache_dtype="bf16", device_options={"threads": 2, "poison": True})  # type: ignore[dict-item]
    assert (config.dtype, config.kv_cache_dtype) == ("float16", "bfloat16")
    assert config.device_options == {"threads": "2", "poison": "true"}


def test_none_and_auto_are_chosen_from_the_device_and_the_model() -> None:
    got = resolved(
        EngineConfig(),
        block_sizes=(32, 16),
        default_num_seqs=8,
        default_num_batched_tokens=64,
        default_memory_utilization=0.5,
    )
    assert (got.max_model_len, got.block_size, got.max_num_seqs, got.max_num_batched_tokens) == (1000, 32, 8, 64)
    assert (got.weight_dtype, got.act_dtype, got.kv_dtype) == ("bfloat16", "float32", "float32")
    assert (got.memory_utilization, got.async_depth) == (0.5, 2)
    assert resolved(EngineConfig(async_scheduling=False)).async_depth == 1
    assert resolved(EngineConfig(), weight_dtypes=("float32",)).weight_dtype == "float32"
    assert any("max_model_len = 1000" in line for line in got.lines())


@pytest.mark.parametrize(
    ("field", "value", "hint"),
    [
        ("tensor_parallel_size", 2, "max_tp=1"),
        ("max_model_len", 1001, "--max-model-len 1000"),
        ("block_size", 7, "--block-size"),
        ("kv_cache_dtype", "fp8", "float32"),
        ("max_num_seqs", 9, "at most 8"),
        ("max_num_batched_tokens", 99, "at most 64"),
    ],
)
def test_what_device_or_model_cannot_do_is_refused(field: str, value: Any, hint: str) -> None:
    with pytest.raises(ConfigError, match=field) as caught:
        resolved(EngineConfig(**{field: value}), max_num_seqs=8, max_num_batched_tokens=64)
    assert hint in str(caught.value)


def test_fewer_tokens_than_sequences() -> None:
    assert resolved(EngineConfig(max_num_batched_tokens=4)).max_num_seqs == 4
    with pytest.raises(ConfigError, match="is below max_num_seqs=8"):
        resolved(EngineConfig(max_num_batched_tokens=4, max_num_seqs=8))
