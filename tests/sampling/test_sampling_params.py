from __future__ import annotations

import logging
import pickle
from dataclasses import FrozenInstanceError, replace
from enum import Enum
from typing import Any

import msgspec
import numpy as np
import pytest

from quire import foreign_fields
from quire.errors import RequestError
from quire.sampling_params import SamplingParams
from quire.vllm_sampling_fields import VLLM_SAMPLING_FIELDS


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
        ("repetition_penalty", 0.0, "at least 1e-06"),
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
        ("logprobs", -2, "from -1"),
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
    params = SamplingParams(
        stop="end",
        stop_token_ids=[5, 5, 7],
        top_k=-1,
        seed=-1,
        temperature=1e-6,
        logit_bias={"12": 1},
        max_tokens=None,
        n=np.int64(2),
    )  # type: ignore[dict-item]
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


@pytest.mark.parametrize(("field", "largest"), [("max_tokens", 2**31 - 1), ("top_k", 2**31 - 1)])
def test_where_more_means_the_same_a_huge_number_is_cut(field: str, largest: int) -> None:
    assert getattr(SamplingParams(**{field: 2**40}), field) == largest  # type: ignore[arg-type]
    assert getattr(SamplingParams(**{field: 10**30}), field) == largest  # type: ignore[arg-type]


def test_positions_are_those_of_vllm() -> None:
    params = SamplingParams(2, 0.1, 0.2, 1.3, 0.4, None, 0.5, 6, 0.7, 8, ["s"], [9], True, 10)
    assert params == SamplingParams(
        n=2,
        presence_penalty=0.1,
        frequency_penalty=0.2,
        repetition_penalty=1.3,
        temperature=0.4,
        top_p=0.5,
        top_k=6,
        min_p=0.7,
        seed=8,
        stop=["s"],
        stop_token_ids=[9],
        ignore_eos=True,
        max_tokens=10,
    )


def test_from_optional_takes_none_as_left_out() -> None:
    params = SamplingParams.from_optional(None, temperature=None, top_p=0.5, max_tokens=None)
    assert params == SamplingParams(top_p=0.5, max_tokens=None)
    with pytest.raises(RequestError, match="colour"):
        SamplingParams.from_optional(colour=1)


def test_clone_is_equal() -> None:
    params = SamplingParams(temperature=0.5, seed=3)
    assert params.clone() == params


@pytest.mark.parametrize("name", VLLM_SAMPLING_FIELDS)
def test_vllms_other_fields_do_what_their_table_says(name: str, caplog: pytest.LogCaptureFixture) -> None:
    spec = VLLM_SAMPLING_FIELDS[name]
    for neutral in (None, *spec.neutral):
        assert SamplingParams(**{name: neutral}) == SamplingParams()
    if spec.kind == "refused":
        with pytest.raises(RequestError, match=name) as caught:
            SamplingParams(**{name: spec.example})
        assert caught.value.param == name
        return
    forget(name)
    with caplog.at_level(logging.INFO, logger="quire"):
        for _ in range(3):
            assert SamplingParams(**{name: spec.example}) == SamplingParams()
    assert [name in record.getMessage() for record in caplog.records] == [True]


def forget(name: str) -> None:
    """Forgets that a field was said, by whichever test ran before."""
    foreign_fields._said -= {text for text in foreign_fields._said if text.startswith(f"{name} of ")}


def test_best_of_that_equals_n_is_no_wish() -> None:
    assert SamplingParams(n=3, best_of=3) == SamplingParams(n=3)


def test_an_enum_of_vllm_counts_as_its_value() -> None:
    kind = Enum("RequestOutputKind", {"CUMULATIVE": 0, "DELTA": 1, "FINAL_ONLY": 2})
    assert SamplingParams(output_kind=kind.FINAL_ONLY) == SamplingParams()
    with pytest.raises(RequestError, match="output_kind"):
        SamplingParams(output_kind=kind.DELTA)
