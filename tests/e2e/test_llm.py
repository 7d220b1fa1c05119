"""The offline API as users of vLLM know it, on the fake device: the answer to "a" is "bcdef..."."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from quire import LLM, CompletionOutput, RequestOutput, SamplingParams
from quire.errors import BackendError, ConfigError, RequestError

GREEDY = SamplingParams(temperature=0, max_tokens=5)


@pytest.fixture(scope="module")
def options(byte_model: Path) -> dict[str, Any]:
    return {"model": str(byte_model), "device": "fake", "load_format": "dummy"}


@pytest.fixture(scope="module")
def llm(options: dict[str, Any]) -> Iterator[LLM]:
    with LLM(**options) as opened:
        yield opened
        assert opened.engine.stats().num_used_blocks == 0


def test_outputs_are_what_users_expect(llm: LLM) -> None:
    outputs = llm.generate(["a", "h"], GREEDY)
    assert [output.prompt for output in outputs] == ["a", "h"]
    first = outputs[0]
    assert isinstance(first, RequestOutput)
    assert isinstance(first.outputs[0], CompletionOutput)
    assert (first.prompt_token_ids, first.finished, first.num_cached_tokens, first.prompt_logprobs) == (
        [97],
        True,
        0,
        None,
    )
    completion = first.outputs[0]
    assert (completion.index, completion.text, completion.token_ids) == (0, "bcdef", [98, 99, 100, 101, 102])
    assert (completion.finish_reason, completion.stop_reason, completion.logprobs) == ("length", None, None)
    assert completion.cumulative_logprob is None
    assert len({output.request_id for output in outputs}) == 2


@pytest.mark.parametrize(
    ("prompts", "texts"),
    [
        ("a", ["bcdef"]),
        ({"prompt": "a"}, ["bcdef"]),
        ({"prompt_token_ids": [97]}, ["bcdef"]),
        ([{"prompt_token_ids": [97]}, "h"], ["bcdef", "ijklm"]),
        ([[97], [104]], ["bcdef", "ijklm"]),
        ([], []),
    ],
)
def test_kinds_of_prompts(llm: LLM, prompts: Any, texts: list[str]) -> None:
    assert [output.outputs[0].text for output in llm.generate(prompts, GREEDY)] == texts


def test_parameters_for_each_prompt(llm: LLM) -> None:
    outputs = llm.generate(["a", "a"], [GREEDY, SamplingParams(temperature=0, max_tokens=2, n=2, logprobs=1)])
    assert [[item.text for item in output.outputs] for output in outputs] == [["bcdef"], ["bc", "bc"]]
    logprobs = outputs[1].outputs[0].logprobs
    assert logprobs is not None
    assert (logprobs[0][98].decoded_token, logprobs[0][98].rank, len(logprobs)) == ("b", 1, 2)
    assert outputs[1].outputs[0].cumulative_logprob == pytest.approx(
        sum(e[t].logprob for e, t in zip(logprobs, (98, 99), strict=True))
    )


def test_defaults_are_the_apis(llm: LLM) -> None:
    assert llm.get_default_sampling_params() == SamplingParams()
    assert len(llm.generate("a")[0].outputs[0].token_ids) <= 16


def test_chat_one_conversation_or_several(llm: LLM) -> None:
    one = [{"role": "user", "content": "x"}]
    (output,) = llm.chat(one, GREEDY)
    assert (output.prompt, output.outputs[0].text) == ("[user]x>", "?@ABC")
    assert [output.prompt for output in llm.chat([one, one], GREEDY)] == ["[user]x>"] * 2
    begun = [*one, {"role": "assistant", "content": "a"}]
    assert (
        llm.chat(begun, GREEDY, add_generation_prompt=False, continue_final_message=True)[0].outputs[0].text == "bcdef"
    )
    assert llm.chat(one, GREEDY, chat_template_kwargs={"shout": True})[0].prompt == "[user]x!>"
    with pytest.raises(RequestError, match="messages is no list"):
        llm.chat("x", GREEDY)


def test_seeds(options: dict[str, Any]) -> None:
    params = SamplingParams(temperature=2, max_tokens=20)
    texts = []
    for seed in (1, 1, 2):
        with LLM(**options, seed=seed) as llm:
            texts.append([output.outputs[0].text for output in llm.generate(["a", "a"], params)])
    assert texts[0] == texts[1] != texts[2]
    assert texts[0][0] != texts[0][1]  # two requests without a seed of their own


def test_the_same_alone_and_in_a_batch(llm: LLM) -> None:
    params = SamplingParams(temperature=2, max_tokens=20, seed=5)
    alone = llm.generate("a", params)[0].outputs[0].token_ids
    assert [output.outputs[0].token_ids for output in llm.generate(["h", "a", "xyz" * 9], params)][1] == alone


def test_priority(options: dict[str, Any]) -> None:
    with LLM(**options, scheduling_policy="priority", max_num_seqs=1) as llm:
        outputs = llm.generate(["a", "h"], GREEDY, priority=[1, 0])
        finished = [output.metrics.finished_s for output in outputs if output.metrics]
        assert finished[1] < finished[0]  # type: ignore[operator]
        with pytest.raises(RequestError, match="1 priorities for 2 prompts"):
            llm.generate(["a", "h"], GREEDY, priority=[1])


@pytest.mark.parametrize(("prompts", "params", "said"), [
    ([97, 98], GREEDY, "prompts is a list of ints"), (["a", ""], GREEDY, "the prompt is empty"),
    (["a", "b"], [GREEDY], "1 sampling_params for 2 prompts"), (["a"], SamplingParams(n=10**4), "n=10000"),
    (5, GREEDY, "prompts is 5"), ("a", {"max_tokens": 2}, "sampling_params is {'max_tokens': 2}"),
    (["a"], ["greedy"], "sampling_params is 'greedy'"),
])  # fmt: skip
def test_what_is_wrong_generates_nothing(llm: LLM, prompts: Any, params: Any, said: str) -> None:
    before = llm.engine.stats().generated_tokens
    with pytest.raises(RequestError, match=said):
        llm.generate(prompts, params)
    assert not llm.engine.has_unfinished()
    stats = llm.engine.stats()
    assert (stats.num_waiting, stats.num_used_blocks, stats.generated_tokens) == (0, 0, before)


def test_an_interrupt_leaves_a_usable_engine(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    step, calls = llm.engine.step, iter(range(3))

    def interrupted() -> Any:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return step()

    with monkeypatch.context() as patch:
        patch.setattr(llm.engine, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            llm.generate(["a", "h"], SamplingParams(max_tokens=100, ignore_eos=True))
    assert llm.engine.stats().num_used_blocks == 0
    assert llm.generate("a", GREEDY)[0].outputs[0].text == "bcdef"


def test_progress_bar(llm: LLM, capsys: pytest.CaptureFixture[str]) -> None:
    llm.generate(["a", "h"], GREEDY, use_tqdm=True)
    assert "2/2" in capsys.readouterr().err
    llm.generate(["a", "h"], GREEDY)  # standard error is no terminal here
    assert capsys.readouterr().err == ""


def test_token_ids_only(options: dict[str, Any]) -> None:
    with LLM(**options, skip_tokenizer_init=True) as llm:
        assert llm.get_tokenizer() is None
        (output,) = llm.generate({"prompt_token_ids": [97]}, GREEDY)
        assert (output.outputs[0].token_ids, output.outputs[0].text) == ([98, 99, 100, 101, 102], "")
        with pytest.raises(RequestError, match="a text prompt without a tokenizer"):
            llm.generate("a")


def test_wrong_options(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="'max_length' is not known"):
        LLM(**options, max_length=5)
    with pytest.raises(ConfigError, match="dtype='int7'"):
        LLM(**options, dtype="int7")


def test_closed(options: dict[str, Any]) -> None:
    llm = LLM(**options)
    llm.close()
    llm.close()
    with pytest.raises(BackendError):
        llm.generate("a", GREEDY)


def test_arguments_as_vllm_has_them(llm: LLM, capsys: pytest.CaptureFixture[str]) -> None:
    assert llm.generate(["a"], GREEDY, False)[0].outputs[0].text == "bcdef"
    assert llm.generate(["a"], GREEDY, True, lora_request=None)[0].outputs[0].text == "bcdef"
    assert "prompts: 100%" in capsys.readouterr().err
    question = [{"role": "user", "content": "hi"}]
    plain = llm.chat(question, GREEDY)[0].outputs[0].text
    options = {"lora_request": None, "chat_template": None, "chat_template_content_format": "auto"}
    assert llm.chat(question, GREEDY, False, **options)[0].outputs[0].text == plain


@pytest.mark.parametrize(("name", "value"), [("lora_request", "one"), ("tokenization_kwargs", {}), ("temperature", 1)])
def test_arguments_that_nobody_reads_are_refused_by_name(llm: LLM, name: str, value: Any) -> None:
    with pytest.raises(RequestError, match=name) as error:
        llm.generate("a", GREEDY, **{name: value})
    assert error.value.param == name
    with pytest.raises(RequestError, match=name):
        llm.chat([{"role": "user", "content": "hi"}], GREEDY, **{name: value})


def test_one_that_fails_among_others(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are answered; alone, or when all fail, its error is raised."""
    executor = type(llm.engine.loaded.core._device.executor)
    submit = executor.submit

    def refuses_long_ones(self: Any, batch: Any) -> Any:
        if int(batch.seq_lens.max()) > 40:
            raise RuntimeError("too long for me")
        return submit(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(executor, "submit", refuses_long_ones)
        good, bad = llm.generate(["a", "x" * 50], GREEDY)
        assert (good.outputs[0].text, good.error) == ("bcdef", None)
        assert bad.finished
        assert bad.outputs[0].finish_reason == "error"
        assert "too long for me" in str(bad.error)
        with pytest.raises(BackendError, match="too long for me"):
            llm.generate(["x" * 50, "y" * 60], GREEDY)
    assert llm.engine.stats().num_used_blocks == 0
