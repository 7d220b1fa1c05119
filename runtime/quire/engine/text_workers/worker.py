"""One text worker: `python -P -m quire.engine.text_workers.worker`, started by `TextWorkers`.

Standard input is a socket: jobs come and answers go through it, one at a time, until the parent goes away.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import sys
from pathlib import Path
from typing import IO

from quire.engine.input_processor import InputProcessor, ModelLimits
from quire.engine.messages import Failure
from quire.engine.text_workers.wire import (
    Answer,
    Failed,
    Job,
    Prepare,
    Prepared,
    Ready,
    Rendered,
    decode_job,
    decode_setup,
    frame,
    read_frame,
)
from quire.errors import InternalError, QuireError, RequestError
from quire.tokenizer import Tokenizer

SPARE_TIME_S = 5.0
"""Beyond a job's time: the parent, where there is one, has ended this process by then."""


class TextWorker:
    """Does the jobs of one worker."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._inputs: tuple[ModelLimits, InputProcessor] | None = None

    def answer(self, job: Job) -> Answer:
        """The answer to a job; an error of it is an answer too."""
        try:
            return self._prepare(job) if isinstance(job, Prepare) else self._render(job.conversation, job.max_chars)
        except QuireError as error:
            return Failed(Failure.of(error))
        except (MemoryError, RecursionError) as error:
            return Failed(
                Failure.of(
                    RequestError(
                        "the text of this request cannot be prepared",
                        because=f"it takes too much ({type(error).__name__})",
                        hint="a shorter or simpler one",
                    )
                )
            )
        except Exception as error:  # a bug: of this job, and nobody else's
            logging.getLogger("quire").exception("a text worker could not do a job")
            return Failed(
                Failure.of(
                    InternalError(
                        "the text of this request cannot be prepared",
                        because=f"{type(error).__name__}: {error}",
                        hint="reporting it",
                    )
                )
            )

    def _prepare(self, job: Prepare) -> Prepared:
        if self._inputs is None or self._inputs[0] != job.limits:
            self._inputs = job.limits, InputProcessor(job.limits, self._tokenizer)
        prepared = self._inputs[1].prepare(
            job.prompt,
            job.params,
            request_id=job.request_id,
            priority=job.priority,
            cache_salt=job.cache_salt,
            add_special_tokens=job.add_special_tokens,
        )
        return Prepared(prepared.message, prepared.prompt, prepared.detokenize)

    def _render(self, conversation: str, max_chars: int) -> Rendered:
        content = json.loads(conversation)
        prompt = self._tokenizer.apply_chat_template(content["messages"], **content["options"])
        if len(prompt) > max_chars:
            raise RequestError(
                f"the conversation makes a prompt of {len(prompt)} characters",
                because=f"this model takes at most {max_chars}",
                hint="a shorter conversation",
                param="messages",
            )
        return Rendered(prompt)


def main() -> int:
    """Entry point of the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business; it closes the pipe
    jobs, answers = sys.stdin.buffer, os.fdopen(os.dup(0), "wb")
    first = read_frame(jobs)
    if first is None:
        return 1
    setup = decode_setup(first)
    logging.basicConfig(level=setup.log_level, format="%(levelname)s text worker: %(message)s", stream=sys.stderr)
    try:
        tokenizer = setup.source.load()
    except QuireError as error:
        _send(answers, Failed(Failure.of(error)))
        return 1
    _limit_memory(setup.memory_bytes)
    worker = TextWorker(tokenizer)
    _send(answers, Ready())
    while (payload := read_frame(jobs)) is not None:
        job = decode_job(payload)
        signal.setitimer(signal.ITIMER_REAL, setup.timeout_s + SPARE_TIME_S)  # ends the process, whatever it is doing
        answer = worker.answer(job)
        signal.setitimer(signal.ITIMER_REAL, 0)
        _send(answers, answer)
    return 0


def _send(pipe: IO[bytes], answer: Answer) -> None:
    pipe.write(frame(answer))
    pipe.flush()


def _limit_memory(spare_bytes: int) -> None:
    """An allocation beyond `spare_bytes` fails, and with it the job."""
    status = Path("/proc/self/statm")
    if not status.exists():
        return
    used = int(status.read_text().split()[0]) * resource.getpagesize()
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = used + spare_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


if __name__ == "__main__":
    sys.exit(main())
