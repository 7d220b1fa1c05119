"""`LLMEngine`: engine and front end in one process and one thread; the loop is the caller's."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from quire.engine.build import LoadedEngine, load_engine
from quire.engine.config import EngineConfig
from quire.engine.input_processor import InputProcessor, Prompt
from quire.engine.interruption import signals_wait
from quire.engine.messages import EngineStats, Failure, SequenceOutput
from quire.engine.output_processor import OutputProcessor
from quire.engine.text_side import load_text_side
from quire.errors import BackendError, RequestError
from quire.outputs import RequestOutput
from quire.sampling_params import SamplingParams
from quire.weights.hub import resolve_model


class LLMEngine:
    """Add requests, then call `step` until `has_unfinished` is false. One thread at a time."""

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        folder = resolve_model(config.model, revision=config.revision)
        found = replace(config, model=str(folder), revision=None)  # looked for once: it may ask the hub
        self.tokenizer, self.sampling_defaults = load_text_side(found)
        self.loaded: LoadedEngine = load_engine(found)
        self._core = self.loaded.core
        self._inputs = InputProcessor(self.loaded.limits, self.tokenizer)
        self._outputs = OutputProcessor(self.tokenizer)

    def add_request(
        self,
        prompt: Prompt,
        params: SamplingParams,
        *,
        request_id: str | None = None,
        priority: int = 0,
        add_special_tokens: bool = True,
    ) -> str:
        """Checks and queues a request; returns its id. Raises RequestError."""
        prepared = self._inputs.prepare(
            prompt,
            params,
            request_id=request_id or uuid.uuid4().hex,
            priority=priority,
            add_special_tokens=add_special_tokens,
        )
        with signals_wait():
            self._core.add_request(prepared.message)
            self._outputs.add(prepared)
        return prepared.message.request_id

    def abort(self, request_id: str) -> None:
        """Ends a request now; an unknown id is no error, it may have just finished."""
        with signals_wait():
            self._core.abort(request_id)
            self._outputs.discard(request_id)

    def abort_all(self) -> None:
        """Ends whatever is unfinished, as after an exception that a loop over `step` was left with."""
        with signals_wait():
            for request_id in self._outputs.request_ids():
                self._core.abort(request_id)
                self._outputs.discard(request_id)

    def has_unfinished(self) -> bool:
        return len(self._outputs) > 0

    def step(self) -> list[RequestOutput]:
        """One iteration; the requests that changed, cumulative. One that failed is finished and has its `error`.

        Ctrl-C, and every other signal whose handler raises, waits until the step has ended.
        """
        with signals_wait():
            changed = self._process(self._core.step())
            if not self._core.has_unfinished():  # what is left ended in a step that was interrupted: nobody told of it
                error = Failure.of(
                    BackendError(
                        "the end of this request was lost", because="a step was interrupted", hint="the request again"
                    )
                )
                changed.update(
                    self._process(
                        [
                            SequenceOutput(request_id, 0, [], "error", error=error)
                            for request_id in self._outputs.request_ids()
                        ]
                    )
                )
        return list(changed.values())

    def _process(self, outputs: list[SequenceOutput]) -> dict[str, RequestOutput]:
        processed = self._outputs.process(outputs)
        for request_id, index in processed.stopped:
            self._core.abort(request_id, index)
        return processed.requests

    def stats(self) -> EngineStats:
        """Counters of the core."""
        return self._core.stats()

    def render_chat(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> str:
        """The prompt of a conversation; options as `ChatTemplate.render`. RequestError without a template."""
        if self.tokenizer is None:
            raise RequestError(
                "chat without a tokenizer", because="skip_tokenizer_init is set", hint="generate with token ids"
            )
        return self.tokenizer.apply_chat_template(messages, **options)

    def close(self) -> None:
        """Frees the device; safe to call twice."""
        self.loaded.close()
