"""Printing a request's text while it is generated."""

from __future__ import annotations

import sys

from quire.engine.llm_engine import LLMEngine
from quire.outputs import RequestOutput
from quire.sampling_params import SamplingParams


def stream_text(engine: LLMEngine, prompt: str, params: SamplingParams, *, add_special_tokens: bool) -> RequestOutput:
    """Runs one request to its end; prints the text as it comes, several answers one after the other.

    Ctrl-C aborts the request and returns what there is.
    """
    request_id = engine.add_request(prompt, params, add_special_tokens=add_special_tokens)
    printed = 0
    output: RequestOutput | None = None
    try:
        while engine.has_unfinished():
            for output in engine.step():
                text = output.outputs[0].text
                sys.stdout.write(text[printed:])
                sys.stdout.flush()
                printed = len(text)
    except KeyboardInterrupt:
        engine.abort(request_id)
        if output is None:
            raise
    except BaseException:
        engine.abort(request_id)
        raise
    assert output is not None
    if output.error is not None:
        raise output.error
    print(flush=True)
    for completion in output.outputs[1:]:
        print(f"--- {completion.index + 1}\n{completion.text}")
    return output
