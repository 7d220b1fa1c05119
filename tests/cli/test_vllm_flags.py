"""Command lines that were written for `vllm serve`."""

from __future__ import annotations

import pytest

from quire.cli.main import parse
from quire.cli.vllm_flags import SWITCHES
from quire.engine.vllm_options import VLLM_OPTIONS
from quire.errors import ConfigError

LINE = (
    "serve demo --trust-remote-code --enforce-eager --swap-space 4 --cpu-offload-gb=0 --no-enable-chunked-prefill "
    '--limit-mm-per-prompt {"image":1} --gpu-memory-utilization 0.5 --served-model-name x --disable-log-requests'
)


def test_what_changes_no_answer_is_taken() -> None:
    args = parse([*LINE.split(), "--max-model-len", "64"])
    assert (args.model_word, args.memory_utilization, args.max_model_len) == ("demo", 0.5, 64)
    assert args.served_model_name == ["x"]
    assert args.backend_options == []


@pytest.mark.parametrize(
    "words", [["--enable-lora"], ["--pipeline-parallel-size", "2"], ["--hf-overrides", '{"rope_theta": 1}'],
              ["--swap-space"], ["--swap-space", "--enforce-eager"]],
)  # fmt: skip
def test_what_would_change_it_is_refused_by_name(words: list[str]) -> None:
    with pytest.raises(ConfigError, match=words[0].strip("-").split("-")[0]):
        parse(["serve", "demo", *words])


def test_neutral_values_are_taken() -> None:
    parse(["serve", "demo", "--pipeline-parallel-size", "1", "--no-enable-lora", "--tokenizer-mode", "auto"])


def test_a_command_without_a_model_has_none_of_them() -> None:
    with pytest.raises(SystemExit):
        parse(["devices", "--enforce-eager"])


def test_switches_are_in_the_table() -> None:
    assert set(VLLM_OPTIONS) >= SWITCHES
