"""From the core's tokens to what a user reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from quire.engine.input_processor import InputProcessor, ModelLimits
from quire.engine.messages import Failure, SequenceOutput, TokenLogprobs
from quire.engine.output_processor import OutputProcessor
from quire.errors import BackendError, RequestError
from quire.outputs import Logprob, RequestOutput
from quire.sampling.sampler import nothing_to_draw_error
from quire.sampling_params import SamplingParams
from quire.tokenizer import Tokenizer
from tests.byte_model import EOS

LIMITS = ModelLimits(
    model_path="m",
    vocab_size=260,
    max_model_len=64,
    max_num_seqs=4,
    eos_token_ids=(EOS,),
    max_logprobs=5,
    scheduling_policy="fcfs",
)


@pytest.fixture(scope="module")
def tokenizer(byte_model: Path) -> Tokenizer:
    return Tokenizer.from_folder(byte_model)


class Front:
    """One request "r" on its way back."""

    def __init__(self, tokenizer: Tokenizer | None, **fields: Any) -> None:
        self.outputs = OutputProcessor(tokenizer)
        self.outputs.add(InputProcessor(LIMITS, tokenizer).prepare([97], SamplingParams(**fields), request_id="r"))

    def take(self, *items: SequenceOutput) -> tuple[RequestOutput | None, list[tuple[str, int]]]:
        processed = self.outputs.process(items)
        assert processed.failed == []
        return processed.requests.get("r"), processed.stopped


def news(text: str | list[int], reason: Any = None, *, index: int = 0, **fields: Any) -> SequenceOutput:
    return SequenceOutput("r", index, list(text.encode()) if isinstance(text, str) else text, reason, **fields)


def test_text_and_tokens_grow_until_finished(tokenizer: Tokenizer) -> None:
    front = Front(tokenizer)
    first, _ = front.take(news("b", num_cached_tokens=1))
    assert first is not None
    assert (first.outputs[0].text, first.outputs[0].token_ids, first.finished, first.metrics) == (
        "b",
        [98],
        False,
        None,
    )
    last, stopped = front.take(news("cd", "length"))
    assert last is first
    assert (last.outputs[0].text, last.outputs[0].finish_reason, last.finished, stopped) == ("bcd", "length", True, [])
    assert (last.prompt, last.prompt_token_ids, last.num_cached_tokens) == (None, [97], 1)
    assert last.metrics is not None
    assert last.metrics.arrival_s <= last.metrics.first_token_s <= last.metrics.finished_s  # type: ignore[operator]
    assert len(front.outputs) == 0


def test_the_token_that_ends_it_counts_but_is_not_shown(tokenizer: Tokenizer) -> None:
    output, _ = Front(tokenizer).take(news([98, 120], "stop", stop_reason=120))
    assert output is not None
    assert (output.outputs[0].text, output.outputs[0].token_ids, output.outputs[0].stop_reason) == ("b", [98, 120], 120)
    shown, _ = Front(tokenizer, include_stop_str_in_output=True).take(news([98, 120], "stop", stop_reason=120))
    assert shown is not None
    assert shown.outputs[0].text == "bx"


def test_stop_string_ends_before_the_core_knows(tokenizer: Tokenizer) -> None:
    front = Front(tokenizer, stop=["cd"], logprobs=0)
    logprobs = [TokenLogprobs([98 + i], [-1.0], 1) for i in range(4)]
    front.take(news("bc", logprobs=logprobs[:2]))
    output, stopped = front.take(news("de", logprobs=logprobs[2:]))
    assert output is not None
    completion = output.outputs[0]
    assert (completion.text, completion.token_ids, completion.finish_reason, completion.stop_reason) == (
        "b",
        [98, 99, 100],
        "stop",
        "cd",
    )
    assert (len(completion.logprobs or []), completion.cumulative_logprob) == (3, -3.0)
    assert stopped == [("r", 0)]
    assert front.take(news("f", "abort")) == (None, [])  # the core's answer to the abort


def test_stop_string_with_the_last_token_needs_no_abort(tokenizer: Tokenizer) -> None:
    output, stopped = Front(tokenizer, stop=["d"]).take(news("bcd", "length"))
    assert output is not None
    assert (output.outputs[0].finish_reason, output.outputs[0].stop_reason, stopped) == ("stop", "d", [])


def test_held_back_text_comes_at_the_end(tokenizer: Tokenizer) -> None:
    front = Front(tokenizer, stop=["cdX"])
    held, _ = front.take(news("bcd"))
    assert held is not None
    assert held.outputs[0].text == "b"
    output, _ = front.take(news("", "abort"))
    assert output is not None
    assert (output.outputs[0].text, output.outputs[0].finish_reason) == ("bcd", "abort")


def test_sequences_finish_one_by_one(tokenizer: Tokenizer) -> None:
    front = Front(tokenizer, n=2)
    both, _ = front.take(news("b", "length"), news("x", index=1))
    assert both is not None
    assert ([item.text for item in both.outputs], both.finished) == (["b", "x"], False)
    output, _ = front.take(news("y", "length", index=1))
    assert output is not None
    assert ([item.text for item in output.outputs], output.finished) == (["b", "xy"], True)


def test_logprobs_have_ranks_and_texts(tokenizer: Tokenizer) -> None:
    front = Front(tokenizer, logprobs=2, prompt_logprobs=1)
    raw = TokenLogprobs([122, 98, 99], [-5.0, -0.5, -1.0], 17)  # "z" was drawn, "b" and "c" were likelier
    output, _ = front.take(
        news([122, 98], logprobs=[raw, TokenLogprobs([98, 98, 99], [-0.5, -0.5, -1.0], 1)], prompt_logprobs=[None])
    )
    assert output is not None
    drawn_z, drawn_b = output.outputs[0].logprobs or []
    assert drawn_z == {122: Logprob(-5.0, 17, "z"), 98: Logprob(-0.5, 1, "b"), 99: Logprob(-1.0, 2, "c")}
    assert drawn_b == {98: Logprob(-0.5, 1, "b"), 99: Logprob(-1.0, 2, "c")}
    assert (output.outputs[0].cumulative_logprob, output.prompt_logprobs) == (-5.5, [None])


def test_a_device_failure_ends_the_request(tokenizer: Tokenizer) -> None:
    front = Front(tokenizer, n=2)
    burning = Failure.of(BackendError("it burns"))
    processed = front.outputs.process([news("b"), news([], "error", index=1, error=burning)])
    ((request_id, error),) = processed.failed
    output = processed.requests["r"]
    assert (output.finished, output.error) == (True, error)
    assert [item.finish_reason for item in output.outputs] == ["error", "error"]
    assert (request_id, type(error), str(error)) == ("r", BackendError, "it burns")
    assert front.take(news("c")) == (None, [])


def test_nothing_left_to_draw_is_the_requests_fault(tokenizer: Tokenizer) -> None:
    processed = Front(tokenizer).outputs.process([news([], "error", error=Failure.of(nothing_to_draw_error()))])
    ((_, error),) = processed.failed
    assert isinstance(error, RequestError)
    assert error.param == "allowed_token_ids"


def test_discarded_and_unknown_requests_are_dropped(tokenizer: Tokenizer) -> None:
    front = Front(tokenizer)
    front.outputs.discard("r")
    front.outputs.discard("never seen")
    assert front.take(news("b")) == (None, [])


def test_without_text(tokenizer: Tokenizer) -> None:
    for front in (Front(None, logprobs=0), Front(tokenizer, detokenize=False, logprobs=0)):
        output, _ = front.take(
            news([98, EOS], "stop", logprobs=[TokenLogprobs([98], [-1.0], 1), TokenLogprobs([EOS], [-1.0], 1)])
        )
        assert output is not None
        assert (output.outputs[0].text, output.outputs[0].token_ids) == ("", [98, EOS])
