"""POST /v1/completions through the openai client."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from openai import OpenAI
from openai.types import Completion

from tests.byte_model import EOS


def complete(client: OpenAI, prompt: Any = "a", **fields: Any) -> Completion:
    fields = {"temperature": 0, "max_tokens": 5, **fields}
    return client.completions.create(model="bytes", prompt=prompt, **fields)  # type: ignore[no-any-return]


def test_text_reason_and_usage(client: OpenAI) -> None:
    answer = complete(client)
    (choice,) = answer.choices
    assert (choice.text, choice.finish_reason, choice.index, choice.logprobs) == ("bcdef", "length", 0, None)
    assert (answer.object, answer.model) == ("text_completion", "bytes")
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (1, 5, 6)


def test_max_tokens_is_16_by_default_and_the_models_length_with_null(client: OpenAI) -> None:
    default = client.completions.create(model="bytes", prompt="a", temperature=0)
    assert default.choices[0].text == "bcdefghijklmnopq"
    unlimited = complete(client, max_tokens=None)
    assert (unlimited.choices[0].finish_reason, unlimited.usage.completion_tokens) == ("stop", EOS - ord("a"))  # type: ignore[union-attr]


@pytest.mark.parametrize("prompt", [["a", "h"], [[97], [104]]])
def test_several_prompts_answer_in_order(client: OpenAI, prompt: Any) -> None:
    answer = complete(client, prompt, n=2)
    assert [(c.index, c.text) for c in answer.choices] == [(0, "bcdef"), (1, "bcdef"), (2, "ijklm"), (3, "ijklm")]
    assert answer.usage.completion_tokens == 20  # type: ignore[union-attr]


def test_one_prompt_of_token_ids(client: OpenAI) -> None:
    assert [c.text for c in complete(client, [96, 97]).choices] == ["bcdef"]


def test_end_of_text_stops_and_is_not_shown(client: OpenAI) -> None:
    answer = complete(client, [EOS - 3], max_tokens=20)
    assert (answer.choices[0].finish_reason, answer.usage.completion_tokens) == ("stop", 3)  # type: ignore[union-attr]
    assert "<|end|>" not in answer.choices[0].text
    shown = complete(client, [EOS - 1], extra_body={"include_stop_str_in_output": True, "skip_special_tokens": False})
    assert shown.choices[0].text.endswith("<|end|>")
    beyond = complete(client, [EOS - 3], max_tokens=20, extra_body={"ignore_eos": True})
    assert beyond.choices[0].finish_reason == "length"


def test_stop_string_across_tokens(client: OpenAI) -> None:
    for stream in (False, True):
        answers = complete(client, stop=["xyz", "ef"], max_tokens=20, stream=stream)
        chunks = [answers] if isinstance(answers, Completion) else list(answers)
        assert "".join(chunk.choices[0].text for chunk in chunks) == "bcd"
        assert chunks[-1].choices[0].finish_reason == "stop"
        assert chunks[-1].choices[0].stop_reason == "ef"  # type: ignore[attr-defined]
    kept = complete(client, stop="ef", max_tokens=20, extra_body={"include_stop_str_in_output": True})
    assert (kept.choices[0].text, kept.usage.completion_tokens) == ("bcdef", 5)  # type: ignore[union-attr]


def test_text_that_only_began_a_stop_string_is_not_lost(client: OpenAI) -> None:
    chunks = list(complete(client, stop="efX", stream=True))  # type: ignore[call-overload]
    assert "".join(chunk.choices[0].text for chunk in chunks) == "bcdef"


def test_stop_token_id(client: OpenAI) -> None:
    (choice,) = complete(client, max_tokens=20, extra_body={"stop_token_ids": [ord("e")]}).choices
    assert (choice.text, choice.finish_reason, choice.stop_reason) == ("bcd", "stop", ord("e"))  # type: ignore[attr-defined]


def test_streaming_gives_the_same_text_token_by_token(client: OpenAI) -> None:
    chunks = list(complete(client, ["a", "h"], n=2, stream=True, stream_options={"include_usage": True}))  # type: ignore[call-overload]
    texts = dict.fromkeys(range(4), "")
    for chunk in chunks[:-1]:
        assert chunk.usage is None
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == {0: "bcdef", 1: "bcdef", 2: "ijklm", 3: "ijklm"}
    assert len(chunks) > 8
    assert chunks[-1].choices == []
    assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (2, 20)
    assert len({chunk.id for chunk in chunks}) == 1


def test_usage_in_every_chunk(client: OpenAI) -> None:
    chunks = list(complete(client, stream=True, stream_options={"include_usage": True, "continuous_usage_stats": True}))  # type: ignore[call-overload]
    counts = [chunk.usage.completion_tokens for chunk in chunks]
    assert counts == sorted(counts)
    assert (counts[0] >= 1, counts[-1]) == (True, 5)


def test_logprobs_are_parallel_lists(client: OpenAI) -> None:
    logprobs = complete(client, logprobs=2).choices[0].logprobs
    assert logprobs is not None
    assert (logprobs.tokens, logprobs.text_offset) == (list("bcdef"), [0, 1, 2, 3, 4])
    for token, value, top in zip(logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, strict=True):
        assert len(top) == 2
        assert value == top[token] == max(top.values()) < 0


def test_streamed_logprobs_have_running_offsets(client: OpenAI) -> None:
    chunks = list(complete(client, logprobs=0, stream=True))  # type: ignore[call-overload]
    assert [o for chunk in chunks for o in chunk.choices[0].logprobs.text_offset] == [0, 1, 2, 3, 4]
    assert [t for chunk in chunks for t in chunk.choices[0].logprobs.tokens] == list("bcdef")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("prompt", ["ab", [97, 98]])
def test_echo_begins_with_the_prompt_and_its_logprobs(client: OpenAI, stream: bool, prompt: Any) -> None:
    answer = complete(client, prompt, echo=True, logprobs=1, max_tokens=2, stream=stream)
    choices = [chunk.choices[0] for chunk in ([answer] if isinstance(answer, Completion) else answer)]
    assert "".join(choice.text for choice in choices) == "abcd"
    values = [value for choice in choices for value in choice.logprobs.token_logprobs]  # type: ignore[union-attr]
    assert values[0] is None
    assert all(value < 0 for value in values[1:])
    assert [o for choice in choices for o in choice.logprobs.text_offset] == [0, 1, 2, 3]  # type: ignore[union-attr]


def test_prompt_logprobs(client: OpenAI) -> None:
    (choice,) = complete(client, "ab", extra_body={"prompt_logprobs": 1}).choices
    first, second = choice.prompt_logprobs  # type: ignore[attr-defined]
    assert first is None
    assert second[str(ord("b"))]["rank"] == 1


def test_best_of_returns_the_likeliest(client: OpenAI) -> None:
    fields = {"temperature": 1.5, "max_tokens": 8, "seed": 3}
    every = complete(client, n=6, logprobs=0, **fields).choices
    means = [sum(c.logprobs.token_logprobs) / len(c.logprobs.tokens) for c in every]  # type: ignore[union-attr,arg-type]
    ranked = [every[i].text for i in sorted(range(6), key=lambda i: -means[i])]
    best = complete(client, n=2, best_of=6, **fields)
    assert [(c.index, c.text, c.logprobs) for c in best.choices] == [(0, ranked[0], None), (1, ranked[1], None)]
    assert best.usage.completion_tokens == sum(len(c.logprobs.tokens) for c in every)  # type: ignore[union-attr,misc]


def test_seed_decides(client: OpenAI) -> None:
    fields: dict[str, Any] = {"temperature": 1.5, "max_tokens": 20, "n": 2}
    first, again, other = (complete(client, seed=seed, **fields).choices for seed in (7, 7, 8))
    assert [c.text for c in first] == [c.text for c in again]
    assert [c.text for c in first] != [c.text for c in other]
    assert first[0].text != first[1].text


def test_logit_bias_with_string_keys(client: OpenAI) -> None:
    assert complete(client, logit_bias={str(ord("z")): 100}).choices[0].text == "zzzzz"
    assert "b" not in complete(client, logit_bias={str(ord("b")): -100}).choices[0].text


def test_bad_words_and_allowed_token_ids(client: OpenAI) -> None:
    assert complete(client, extra_body={"bad_words": ["cd"]}).choices[0].text[:3] not in ("bcd",)
    only = complete(client, extra_body={"allowed_token_ids": [ord("x"), ord("y")]}).choices[0].text
    assert set(only) <= {"x", "y"}


def test_cached_tokens_and_cache_salt(client: OpenAI) -> None:
    prompt = "cached tokens are counted in whole blocks of sixteen"
    def cached(**extra: Any) -> int:
        return complete(client, prompt, extra_body=extra).usage.prompt_tokens_details.cached_tokens  # type: ignore[union-attr,return-value]

    assert [cached(), cached()] == [0, 48]
    assert [cached(cache_salt="mine"), cached(cache_salt="mine"), cached(cache_salt="yours")] == [0, 48, 0]


def test_tokens_of_one_character_wait_for_each_other(client: OpenAI) -> None:
    euro = "€".encode()
    chunks = list(complete(client, [97], stream=True, max_tokens=3,
                           extra_body={"logit_bias": {str(euro[0]): 100}, "allowed_token_ids": list(euro)}))  # type: ignore[call-overload]
    texts = [chunk.choices[0].text for chunk in chunks]
    assert "".join(texts) == "\ufffd" * 3  # three first bytes are three broken characters, each shown once
    assert all(len(one) + len(two) > 0 for one, two in pairwise(texts)) or len(texts) == 3
