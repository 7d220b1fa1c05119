"""A process that loads damaged checkpoints one after the other and says what came of each.

Reads lines of JSON, {"folder", "load_format", "device"}; answers each with a line {"outcome", "error"}: "ran",
"refused" by an error of Quire's own, or "raised" anything else. The parent notices hangs and signals.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import sys
import traceback
from dataclasses import replace
from typing import Any

MOST_BYTES = 6 * 2**30
"""Of memory that is not a mapped file: what a damaged file describes must not be taken from the machine."""


def main() -> None:
    """Until standard input ends."""
    resource.setrlimit(resource.RLIMIT_DATA, (MOST_BYTES, MOST_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    logging.disable(logging.CRITICAL)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # panics of Rust libraries print themselves
    for line in sys.stdin:
        print(json.dumps(_outcome(json.loads(line))), file=answers, flush=True)


def _outcome(job: dict[str, Any]) -> dict[str, str]:
    from quire.errors import InternalError, QuireError

    try:
        _load_and_run(job)
    except InternalError as error:
        return {"outcome": "raised", "error": f"InternalError: {error}"}
    except QuireError as error:
        return {"outcome": "refused", "error": f"{type(error).__name__}: {error}"}
    except BaseException:  # what the test is about: nothing else may come out
        return {"outcome": "raised", "error": traceback.format_exc()[-3000:]}
    return {"outcome": "ran", "error": ""}


def _load_and_run(job: dict[str, Any]) -> None:
    """Two tokens after a text, and after a conversation where the model has a template."""
    from quire import LLM

    with LLM(
        job["folder"], load_format=job["load_format"], device=job["device"], num_kv_blocks=64, max_num_seqs=2
    ) as llm:
        params = replace(llm.get_default_sampling_params(), max_tokens=2, min_tokens=1, seed=1)
        llm.generate("ab é", params)
        if llm.get_tokenizer().has_chat_template:
            llm.chat([{"role": "user", "content": "ab"}], params)


if __name__ == "__main__":
    main()
