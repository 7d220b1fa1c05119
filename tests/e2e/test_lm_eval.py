"""lm-evaluation-harness against the server, as `--model local-completions`: its numbers are the model's own."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import pytest

from quire import LLM, SamplingParams
from tests.serving import Server

pytest.importorskip("lm_eval", reason="lm_eval is not installed; it is part of the test extra")
pytest.importorskip("tenacity", reason="lm_eval's api extra is not installed; it is part of the test extra")

DEMO = str(files("quire.demo"))
QUESTIONS = [
    ("A block table maps", [" positions to blocks", " blocks", " é🙂"]),
    ("The scheduler", [" runs", " has one token budget per step, and no phases"]),
]


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Builds the harness's model on a server of the demo model, with other arguments."""
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    started = Server("--max-logprobs", "5", log=tmp_path_factory.mktemp("lm_eval") / "log").wait_ready()

    def model(**options: Any) -> Any:
        return LocalCompletionsAPI(
            base_url=f"{started.url}/v1/completions",
            model="demo",
            tokenizer=DEMO,
            tokenizer_backend="huggingface",
            max_retries=1,
            max_length=256,
            **options,
        )

    try:
        yield model
    finally:
        started.stop()


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM() as opened:
        yield opened


def instances(kind: str, arguments: list[tuple[Any, ...]]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, given, index) for index, given in enumerate(arguments)]


def scored(llm: LLM, prompt: list[int], num_context: int) -> tuple[float, bool]:
    """(sum of the logprobs after the context, whether each token was the likeliest), by the model itself."""
    params = SamplingParams(max_tokens=1, prompt_logprobs=1)
    (output,) = llm.generate([{"prompt_token_ids": prompt}], params)
    assert output.prompt_logprobs is not None
    places = output.prompt_logprobs[num_context:]
    drawn = [place[token] for place, token in zip(places, prompt[num_context:], strict=True) if place is not None]
    return sum(item.logprob for item in drawn), all(item.rank == 1 for item in drawn)


@pytest.mark.parametrize("options", [{"batch_size": 4}, {"num_concurrent": 2}, {"tokenized_requests": False}])
def test_loglikelihood(harness: Any, llm: LLM, options: dict[str, Any]) -> None:
    model = harness(**options)
    pairs = [(context, ending) for context, endings in QUESTIONS for ending in endings]
    for (context, ending), (value, is_greedy) in zip(
        pairs, model.loglikelihood(instances("loglikelihood", pairs)), strict=True
    ):
        prompt, num_context = model.tok_encode(context + ending), len(model.tok_encode(context))
        expected, is_likeliest = scored(llm, prompt, num_context)
        assert value == pytest.approx(expected, abs=1e-3)
        assert is_greedy is is_likeliest


def test_loglikelihood_rolling(harness: Any, llm: LLM) -> None:
    model = harness(batch_size=2)
    texts = ["The KV cache is kept in blocks.", "Hello, é🙂"]
    values = model.loglikelihood_rolling(instances("loglikelihood_rolling", [(text,) for text in texts]))
    for text, value in zip(texts, values, strict=True):
        expected, _ = scored(llm, [model.prefix_token_id, *model.tok_encode(text)], 1)
        assert value == pytest.approx(expected, abs=1e-3)


def test_generate_until(harness: Any, llm: LLM) -> None:
    model = harness(batch_size=2)
    arguments: dict[str, Any] = {"until": [" the", "\n\n"], "max_gen_toks": 12, "do_sample": False, "temperature": 0}
    prompts = ["A block table", "The scheduler", "def main"]
    texts = model.generate_until(instances("generate_until", [(prompt, dict(arguments)) for prompt in prompts]))
    params = SamplingParams(temperature=0, max_tokens=12, stop=[*arguments["until"], model.eos_string])
    tokens = [{"prompt_token_ids": model.tok_encode(prompt)} for prompt in prompts]
    assert texts == [output.outputs[0].text for output in llm.generate(tokens, params)]
