"""POST /v1/completions through the openai client."""

from __future__ import annotations

from itertools import pairwise, product
from typing import Any

import pytest
from openai import OpenAI
from openai.types import Completion

from quire.server.foreign_request_fields import COMPLETION_FOREIGN
from quire.server.schemas import CompletionRequest
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
    chunks = list(
        complete(
            client,
            [97],
            stream=True,
            max_tokens=3,
            extra_body={"logit_bias": {str(euro[0]): 100}, "allowed_token_ids": list(euro)},
        )
    )  # type: ignore[call-overload]
    texts = [chunk.choices[0].text for chunk in chunks]
    assert "".join(texts) == "\ufffd" * 3  # three first bytes are three broken characters, each shown once
    assert all(len(one) + len(two) > 0 for one, two in pairwise(texts)) or len(texts) == 3


EURO = "€".encode()
BROKEN = [*EURO[:2], ord("x"), 0xFF, *"é€".encode(), ord("y")]
"""Half a character, a byte that is none, then whole ones."""


def joined(client: OpenAI, prompt: Any, **fields: Any) -> tuple[str, list[str], list[int]]:
    """(text, tokens, offsets) of a whole answer, after checking that the streamed one is the same."""

    def of(stream: bool) -> tuple[str, list[str], list[int]]:
        answer = complete(client, prompt, stream=stream, **fields)
        choices = [chunk.choices[0] for chunk in ([answer] if isinstance(answer, Completion) else answer)]
        logprobs = [choice.logprobs for choice in choices if choice.logprobs is not None]
        return (
            "".join(choice.text for choice in choices),
            [token for one in logprobs for token in one.tokens],
            [offset for one in logprobs for offset in one.text_offset],
        )

    whole = of(False)
    assert of(True) == whole
    return whole


@pytest.mark.parametrize(
    ("fields", "echo"),
    [*product([{}, {"stop": "fgX"}, {"stop": "efX"}, {"stop": "ef"}], [True, False]), ({"max_tokens": 0}, True)],
)
def test_text_begins_with_each_token_at_its_offset(client: OpenAI, fields: dict[str, Any], echo: bool) -> None:
    text, tokens, offsets = joined(client, [*BROKEN, ord("a")], logprobs=1, echo=echo, **fields)
    assert len(tokens) == len(offsets)
    assert offsets == sorted(offsets)
    for token, offset in zip(tokens, offsets, strict=True):
        if "\ufffd" not in token and offset < len(text):
            assert text[offset : offset + len(token)] == token


def test_offsets_behind_a_broken_and_a_skipped_token(client: OpenAI) -> None:
    allowed = {"allowed_token_ids": [EURO[0]], "ignore_eos": True}
    text, tokens, offsets = joined(client, "a", logprobs=0, max_tokens=3, extra_body=allowed)
    assert (text, tokens, offsets) == ("\ufffd" * 3, ["\ufffd"] * 3, [0, 1, 2])
    beyond = joined(client, [EOS - 2], logprobs=0, max_tokens=4, extra_body={"ignore_eos": True})
    assert beyond[2] == [0, 1, 1, 1]  # byte 255, the end-of-text token, and ids without a token


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("n", [1, 2])
def test_max_tokens_0_with_echo_scores_the_prompt(client: OpenAI, stream: bool, n: int) -> None:
    answer = complete(
        client,
        ["abc", "hi"],
        echo=True,
        logprobs=2,
        max_tokens=0,
        n=n,
        stream=stream,
        **({"stream_options": {"include_usage": True}} if stream else {}),
    )
    chunks = [answer] if isinstance(answer, Completion) else list(answer)
    choices = sorted((choice for chunk in chunks for choice in chunk.choices), key=lambda choice: choice.index)
    assert [choice.text for choice in choices] == ["abc"] * n + ["hi"] * n
    assert {choice.finish_reason for choice in choices} == {"length"}
    for choice in choices:
        assert choice.logprobs.tokens == list(choice.text)
        assert [len(top) for top in choice.logprobs.top_logprobs[1:]] == [2] * (len(choice.text) - 1)
    usage = chunks[-1].usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (5, 0, 5)


def test_max_tokens_0_without_logprobs_only_echoes(client: OpenAI) -> None:
    answer = complete(client, "abc", echo=True, max_tokens=0)
    assert (answer.choices[0].text, answer.choices[0].logprobs, answer.usage.completion_tokens) == ("abc", None, 0)  # type: ignore[union-attr]


def test_echo_shows_as_many_logprobs_as_asked_whatever_prompt_logprobs_says(client: OpenAI) -> None:
    (choice,) = complete(client, "abc", echo=True, logprobs=1, extra_body={"prompt_logprobs": 3}).choices
    assert [len(top) for top in choice.logprobs.top_logprobs[1:]] == [1] * 7  # type: ignore[union-attr]
    assert len(choice.prompt_logprobs[1]) == 3  # type: ignore[attr-defined]


def test_token_ids_beside_the_text(client: OpenAI) -> None:
    (choice,) = complete(client, "a", extra_body={"return_token_ids": True}).choices
    assert (choice.token_ids, choice.prompt_token_ids) == ([98, 99, 100, 101, 102], [97])  # type: ignore[attr-defined]
    chunks = list(complete(client, "a", stream=True, extra_body={"return_token_ids": True}))  # type: ignore[call-overload]
    assert [token for chunk in chunks for token in chunk.choices[0].token_ids] == choice.token_ids  # type: ignore[attr-defined]
    assert [getattr(chunk.choices[0], "prompt_token_ids", None) for chunk in chunks][:2] == [[97], None]
    named = complete(client, "a", logprobs=0, extra_body={"return_tokens_as_token_ids": True}).choices[0].logprobs
    assert named.tokens == [f"token_id:{token}" for token in choice.token_ids]  # type: ignore[union-attr,attr-defined]


def test_request_id_is_part_of_the_answers(client: OpenAI) -> None:
    assert complete(client, "a", extra_body={"request_id": "mine-1"}).id == "cmpl-mine-1"


def test_whole_numbers_may_come_as_floats(client: OpenAI) -> None:
    assert complete(client, "a", max_tokens=2.0, extra_body={"top_k": 1.0}).choices[0].text == "bc"


def test_null_is_absent_everywhere(client: OpenAI) -> None:
    names = [*CompletionRequest.model_fields, *COMPLETION_FOREIGN]
    nothing = {name: None for name in names if name not in ("prompt", "model", "max_tokens", "stream", "temperature")}
    assert complete(client, "a", extra_body=nothing).choices[0].text == "bcdef"
    options = {"include_usage": True, "continuous_usage_stats": None, "include_obfuscation": None}
    extra = {"stream_options": options, "logit_bias": {"98": None}}
    chunks = list(complete(client, "a", stream=True, extra_body=extra))  # type: ignore[call-overload]
    assert "".join(chunk.choices[0].text for chunk in chunks[:-1]) == "bcdef"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fields", [{}, {"ignore_eos": True}, {"ignore_eos": True, "skip_special_tokens": False}])
def test_a_stop_string_that_is_a_special_token_ends_there(client: OpenAI, fields: dict[str, Any], stream: bool) -> None:
    for keep in (False, True):
        extra = {"allowed_token_ids": [EOS], **fields, "include_stop_str_in_output": keep}
        answer = complete(client, "a", stop="<|end|>", stream=stream, max_tokens=9, extra_body=extra)
        choices = [chunk.choices[0] for chunk in ([answer] if isinstance(answer, Completion) else answer)]
        assert "".join(choice.text for choice in choices) == ("<|end|>" if keep else "")
        assert (choices[-1].finish_reason, choices[-1].stop_reason) == ("stop", "<|end|>")  # type: ignore[attr-defined]
