from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from quire.errors import ModelError
from quire.tokenizer import generation_defaults


def test_what_the_file_sets_is_taken(tmp_path: Path) -> None:
    content = {
        "temperature": 0.6,
        "top_p": 0.95,
        "top_k": 20,
        "min_p": 0.0,
        "repetition_penalty": 1.05,
        "max_new_tokens": 99,
        "do_sample": False,
        "eos_token_id": [1],
        "bos_token_id": 0,
        "transformers_version": "5",
    }
    (tmp_path / "generation_config.json").write_text(json.dumps(content))
    assert generation_defaults(tmp_path) == {
        "temperature": 0.6,
        "top_p": 0.95,
        "top_k": 20,
        "min_p": 0.0,
        "repetition_penalty": 1.05,
        "max_tokens": 99,
    }


@pytest.mark.parametrize("content", [{}, {"do_sample": False}, {"temperature": None}])
def test_what_it_does_not_set_is_absent(tmp_path: Path, content: Any) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps(content))
    assert generation_defaults(tmp_path) == {}


def test_no_file_no_defaults(tmp_path: Path) -> None:
    assert generation_defaults(tmp_path) == {}


def test_values_out_of_range_are_the_checkpoints_fault(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text('{"top_p": 7}')
    with pytest.raises(ModelError, match=r"generation_config.json.*top_p=7"):
        generation_defaults(tmp_path)
