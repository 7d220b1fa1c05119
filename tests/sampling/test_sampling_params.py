from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError, replace
from typing import Any

import msgspec
import numpy as np
import pytest

from quire.errors import RequestError
from quire.sampling_params import SamplingParams


def test_defaults_are_those_vllm_users_know() -> None:
    params = SamplingParams()
    assert (params.n, params.temperature, params.top_p, params.top_k, params.min_p) == (1, 1.0, 1.0, 0, 0.0)
    assert (params.presence_penalty, params.frequency_penalty, params.repetition_penalty) == (0.0, 0.0, 1.0)
    assert (params.seed, params.max_tokens, params.min_tokens) == (None, 16, 0)
    assert (params.logprobs, params.prompt_logprobs, params.logit_bias, params.allowed_token_ids) == (None,) * 4
    assert (params.include_stop_str_in_output, params.ignore_eos) == (False, False)
    assert (params.detokenize, params.skip_special_tokens) == (True, True)


@pytest.mark.parametrize(
    ("param", "value", "range_text"),
    [
        ("n", 0, "from 1 to 16384"),
        ("n", 1.5, "whole number"),
        ("n", True, "whole number"),
        ("temperature", -0.1, "at least 0"),
        ("temperature", float("nan"), "finite"),
        ("temperature", "hot", "finite"),
        ("top_p", 0.0, "above 0 and at most 1"),
        ("top_p", 1.01, "above 0 and at most 1"),
        ("top_k", -2, "at least -1"),
        ("min_p", 1.5, "at least 0 and at most 1"),
        ("presence_penalty", 2.5, "at least -2 and at most 2"),
        ("frequency_penalty", -2.5, "at least -2 and at most 2"),
        ("repetition_penalty", 0.0, "above 0"),
        ("repetition_penalty", float("inf"), "finite"),
        ("seed", 2**64, str(2**64 - 1)),
        ("stop", [""], "none of them empty"),
        ("stop", [1], "strings"),
        ("stop", 3, "list of strings"),
        ("bad_words", "word", "list of strings"),
        ("stop_token_ids", [-1], "from 0"),
        ("stop_token_ids", "12", "list of token ids"),
        ("allowed_token_ids", [], "at least one"),
        ("max_tokens", 0, "at least 1"),
        ("min_tokens", -1, "at least 0"),
        ("min_tokens", 17, "max_tokens=16"),
        ("logprobs", -2, "at least -1"),
        ("prompt_logprobs", 1.0, "whole number"),
        ("logit_bias", {3: 101}, "at least -100 and at most 100"),
        ("logit_bias", {"x": 1}, "whole number"),
        ("logit_bias", [1], "mapping"),
        ("ignore_eos", 1, "true or false"),
    ],
)
def test_bad_values_are_refused_with_their_range(param: str, value: Any, range_text: str) -> None:
    with pytest.raises(RequestError) as caught:
        SamplingParams(**{param: value})
    assert caught.value.param == param
    assert param in caught.value.what
    assert range_text in str(caught.value)


def test_stop_strings_need_text() -> None:
    with pytest.raises(RequestError, match="detokenize") as caught:
        SamplingParams(stop="x", detokenize=False)
    assert caught.value.param == "stop"


def test_values_are_normalised() -> None:
    params = SamplingParams(stop="end", stop_token_ids=[5, 5, 7], top_k=-1, seed=-1, temperature=1e-6,
                            logit_bias={"12": 1}, max_tokens=None, n=np.int64(2))  # type: ignore[dict-item]  # fmt: skip
    assert params.stop_strings == ("end",)
    assert params.stop_token_ids == (5, 7)
    assert (params.top_k, params.seed, params.temperature) == (0, None, 0.0)
    assert params.logit_bias == {12: 1.0}
    assert type(params.n) is int
    assert SamplingParams(stop=["a", "b", "a"]).stop_strings == ("a", "b")
    assert (SamplingParams().stop_strings, SamplingParams().stop_token_ids, SamplingParams().bad_words) == ((), (), ())


def test_params_are_frozen_and_replace_checks_again() -> None:
    params = SamplingParams(temperature=0.5)
    with pytest.raises(FrozenInstanceError):
        params.temperature = 1.0  # type: ignore[misc]
    assert replace(params, seed=9) == SamplingParams(temperature=0.5, seed=9)
    with pytest.raises(RequestError):
        replace(params, top_p=2.0)


def test_params_cross_processes() -> None:
    params = SamplingParams(stop=["a"], logit_bias={4: -1.0}, allowed_token_ids=[1, 2], seed=2**64 - 1, n=3)
    assert pickle.loads(pickle.dumps(params)) == params
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(params), type=SamplingParams) == params
    assert msgspec.json.decode(msgspec.json.encode(params), type=SamplingParams) == params
