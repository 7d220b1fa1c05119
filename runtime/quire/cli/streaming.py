"""Printing a request's text while it is generated."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from quire.cli.standard_streams import write_text
from quire.engine.llm_engine import LLMEngine
from quire.outputs import RequestOutput
from quire.sampling_params import SamplingParams


@dataclass(frozen=True, slots=True)
class Answer:
    """What came, and whether Ctrl-C ended it."""

    output: RequestOutput
    interrupted: bool = False


def stream_text(engine: LLMEngine, prompt: str, params: SamplingParams, *, add_special_tokens: bool) -> Answer:
    """Runs one request to its end; prints the text as it comes, several answers one after the other.

    Ctrl-C ends the request; what there is comes back, unless there is nothing: then KeyboardInterrupt goes on.
    Raises: RequestError, and the error of a request that failed while it ran.
    """
    request_id = engine.add_request(prompt, params, add_special_tokens=add_special_tokens)
    printed = 0
    output: RequestOutput | None = None
    interrupted = False
    try:
        while engine.has_unfinished():
            for output in engine.step():
                text = output.outputs[0].text
                write_text(text[printed:])
                printed = len(text)
    except KeyboardInterrupt:
        engine.abort(request_id)
        if output is None:
            raise
        interrupted = True
    except BaseException:
        engine.abort(request_id)
        raise
    assert output is not None
    if output.error is None or printed:
        write_text("\n")
    if output.error is not None:
        raise output.error
    for completion in output.outputs[1:]:
        write_text(f"--- {completion.index + 1}\n{completion.text}\n")
    return Answer(output, interrupted)


def say_if_cut(output: RequestOutput, params: SamplingParams, max_model_len: int, *, way_out: str) -> None:
    """One line to standard error for each answer that a limit ended; `way_out` is how to raise the cap."""
    for completion in output.outputs:
        if completion.finish_reason != "length":
            continue
        count = len(completion.token_ids)
        if params.max_tokens is not None and count >= params.max_tokens:
            print(f"stopped after {count} tokens ({way_out})", file=sys.stderr)
        else:
            print(
                f"stopped after {count} tokens: the context of {max_model_len} tokens is full (--max-model-len)",
                file=sys.stderr,
            )
