"""From what a user asks to what the core takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quire.engine.input_processor import InputProcessor, ModelLimits
from quire.errors import RequestError
from quire.sampling_params import SamplingParams
from quire.tokenizer import Tokenizer
from tests.byte_model import EOS

LIMITS = ModelLimits(
    model_path="m",
    vocab_size=260,
    max_model_len=32,
    max_num_seqs=4,
    eos_token_ids=(9,),
    max_logprobs=5,
    scheduling_policy="fcfs",
)


@pytest.fixture(scope="module")
def tokenizer(byte_model: Path) -> Tokenizer:
    return Tokenizer.from_folder(byte_model)


@pytest.fixture
def inputs(tokenizer: Tokenizer) -> InputProcessor:
    return InputProcessor(LIMITS, tokenizer)


def prepare(inputs: InputProcessor, prompt: Any = "a", **fields: Any) -> Any:
    extra = {name: fields.pop(name) for name in ("priority", "cache_salt") if name in fields}
    return inputs.prepare(prompt, SamplingParams(**fields), request_id="r", **extra)


def test_a_text_that_cannot_fit_is_not_tokenized(inputs: InputProcessor, monkeypatch: pytest.MonkeyPatch) -> None:
    longest = inputs._tokenizer.longest_token_chars  # type: ignore[union-attr]
    monkeypatch.setattr(Tokenizer, "encode", lambda *_, **__: [97])
    most = LIMITS.max_model_len * max(longest, 16)
    assert prepare(inputs, "a" * most).message.prompt_token_ids == (97,)
    monkeypatch.setattr(Tokenizer, "encode", None)
    with pytest.raises(RequestError, match=f"{most + 1} characters") as refused:
        prepare(inputs, "a" * (most + 1))
    assert refused.value.param == "prompt"


@pytest.mark.parametrize(("prompt", "text", "salt"), [
    ("ab", "ab", None), ([97, 98], None, None), (np.array([97, 98]), None, None), ({"prompt": "ab"}, "ab", None),
    ({"prompt_token_ids": (97, 98), "cache_salt": "s"}, None, "s"),
])  # fmt: skip
def test_prompts(inputs: InputProcessor, prompt: Any, text: str | None, salt: str | None) -> None:
    prepared = prepare(inputs, prompt)
    assert prepared.message.prompt_token_ids == (97, 98)
    assert (prepared.prompt, prepared.message.cache_salt, prepared.detokenize) == (text, salt, True)
    assert prepared.message.eos_token_ids == (9, EOS)


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        [],
        {},
        {"prompt": "a", "prompt_token_ids": [1]},
        {"prompt_token_ids": []},
        {"text": "a"},
        {"prompt": "a", "x": 1},
        [260],
        [-1],
        [1.5],
        ["a"],
        [None],
        None,
        7,
        "a" * 32,
        {"prompt": None},
        "\ud800",
    ],
)
def test_wrong_prompts(inputs: InputProcessor, prompt: Any) -> None:
    with pytest.raises(RequestError) as caught:
        prepare(inputs, prompt)
    assert caught.value.param == "prompt"


def test_wrong_cache_salt(inputs: InputProcessor) -> None:
    with pytest.raises(RequestError, match="cache_salt"):
        prepare(inputs, {"prompt": "a", "cache_salt": 1})


def test_max_tokens_ends_with_the_models_length(inputs: InputProcessor) -> None:
    for asked, got in ((None, 30), (5, 5), (99, 30)):
        assert prepare(inputs, "ab", max_tokens=asked).message.params.max_tokens == got
    assert prepare(inputs, "ab", max_tokens=None, min_tokens=99).message.params.min_tokens == 30


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"stop": "\ud800"}, "stop"),
        ({"bad_words": ["\ud800"]}, "bad_words"),
        ({"cache_salt": "\ud800"}, "cache_salt"),
        ({"n": 5}, "n"),
        ({"priority": 1}, "priority"),
        ({"logprobs": 6}, "logprobs"),
        ({"prompt_logprobs": -1}, "prompt_logprobs"),
        ({"stop_token_ids": [260]}, "stop_token_ids"),
        ({"allowed_token_ids": [1, 300]}, "allowed_token_ids"),
        ({"logit_bias": {260: 1.0}}, "logit_bias"),
    ],
)
def test_what_does_not_fit_the_engine_is_refused_by_name(
    inputs: InputProcessor, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(RequestError) as caught:
        prepare(inputs, **fields)
    assert caught.value.param == param
    assert caught.value.because
    assert caught.value.hint


def test_the_whole_vocabulary_of_logprobs(tokenizer: Tokenizer) -> None:
    inputs = InputProcessor(replace(LIMITS, max_logprobs=260), tokenizer)
    assert prepare(inputs, logprobs=-1).message.params.logprobs == 260


def test_priority_under_its_policy(tokenizer: Tokenizer) -> None:
    inputs = InputProcessor(replace(LIMITS, scheduling_policy="priority"), tokenizer)
    assert prepare(inputs, priority=-3).message.priority == -3
    with pytest.raises(RequestError, match="priority='x'"):
        prepare(inputs, priority="x")


def test_bad_words_alone_and_after_a_space(inputs: InputProcessor) -> None:
    assert prepare(inputs, bad_words=["no", " x"]).message.bad_words_token_ids == (
        tuple(b"no"),
        tuple(b" no"),
        tuple(b" x"),
    )


def test_without_a_tokenizer(tokenizer: Tokenizer) -> None:
    inputs = InputProcessor(LIMITS, None)
    prepared = prepare(inputs, [1, 2])
    assert (prepared.detokenize, prepared.message.eos_token_ids) == (False, (9,))
    for prompt, fields, param in (
        ("a", {}, "prompt"),
        ([1], {"stop": "x"}, "stop"),
        ([1], {"bad_words": ["x"]}, "bad_words"),
    ):
        with pytest.raises(RequestError) as caught:
            prepare(inputs, prompt, **fields)
        assert caught.value.param == param


def test_special_tokens_are_the_callers_choice(inputs: InputProcessor) -> None:
    prepared = inputs.prepare("<|end|>", SamplingParams(), request_id="r", add_special_tokens=False)
    assert prepared.message.prompt_token_ids == (EOS,)
