"""Arguments that users of vLLM's LLM pass: each does what its row of the table says."""

from __future__ import annotations

import argparse
import logging
from dataclasses import fields

import pytest
import torch

from quire import foreign_fields
from quire.engine.config import EngineConfig
from quire.engine.vllm_options import VLLM_OPTIONS
from quire.errors import ConfigError
from quire.options import add_flags, aliases_of


@pytest.mark.parametrize("name", VLLM_OPTIONS)
def test_an_option_is_taken_or_refused_as_its_row_says(name: str, caplog: pytest.LogCaptureFixture) -> None:
    spec = VLLM_OPTIONS[name]
    for neutral in (None, *spec.neutral):
        assert EngineConfig.from_options(model="m", **{name: neutral}) == EngineConfig(model="m")
    assert caplog.records == []
    if spec.kind == "refused":
        with pytest.raises(ConfigError, match=name) as caught:
            EngineConfig.from_options(**{name: spec.example})
        assert caught.value.because
        assert caught.value.hint
        return
    foreign_fields._said -= {text for text in foreign_fields._said if text.startswith(f"{name} of ")}
    with caplog.at_level(logging.INFO, logger="quire"):
        for _ in range(2):
            assert EngineConfig.from_options(model="m", **{name: spec.example}) == EngineConfig(model="m")
    assert [name in record.getMessage() for record in caplog.records] == [True]


def test_no_option_of_ours_is_in_the_table() -> None:
    ours = {item.name for item in fields(EngineConfig)}
    assert not ours & {*VLLM_OPTIONS, *aliases_of(EngineConfig)}
    assert set(aliases_of(EngineConfig).values()) <= ours


def test_other_names_mean_the_same() -> None:
    config = EngineConfig.from_options(
        model="m",
        gpu_memory_utilization=0.5,
        num_gpu_blocks_override=7,
        seed=None,
        dtype=torch.float16,
        enable_prefix_caching=None,
    )
    assert config == EngineConfig(model="m", memory_utilization=0.5, num_kv_blocks=7, dtype="float16")
    with pytest.raises(ConfigError, match="two names"):
        EngineConfig.from_options(gpu_memory_utilization=0.5, memory_utilization=0.5)


def test_a_secret_is_not_said(caplog: pytest.LogCaptureFixture) -> None:
    EngineConfig.from_options(model="m", hf_token="hf_secret")
    assert "hf_secret" not in caplog.text


def test_the_three_doors_take_the_same_names() -> None:
    """LLM and AsyncLLM pass their words to `from_options`; the command line has each as a flag."""
    parser = argparse.ArgumentParser()
    add_flags(parser, EngineConfig)
    flags = {flag for action in parser._actions for flag in action.option_strings}
    for alias, name in aliases_of(EngineConfig).items():
        assert {f"--{alias.replace('_', '-')}", f"--{name.replace('_', '-')}"} <= flags
    assert vars(parser.parse_args(["--gpu-memory-utilization", "0.5"]))["memory_utilization"] == 0.5
