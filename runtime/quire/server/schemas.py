"""Requests of the OpenAI API as Quire takes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from quire.errors import RequestError
from quire.field_ranges import MAX_N, check_integer, check_optional_integer
from quire.foreign_fields import ForeignField
from quire.sampling_params import SamplingParams
from quire.server.foreign_request_fields import CHAT_FOREIGN, COMPLETION_FOREIGN
from quire.server.list_fields import Objects, PromptField
from quire.server.sampling_fields import SamplingFields, Whole, unsupported


class CompletionRequest(SamplingFields):
    """Body of POST /v1/completions."""

    foreign: ClassVar[Mapping[str, ForeignField]] = COMPLETION_FOREIGN

    prompt: PromptField
    max_tokens: Whole | None = 16
    logprobs: Whole | None = Field(default=None, ge=0)
    echo: bool = False
    best_of: Whole | None = None
    add_special_tokens: bool = True

    @property
    def param_names(self) -> Mapping[str, str]:
        return {} if self.best_of is None else {"n": "best_of"}

    @property
    def only_scores(self) -> bool:
        """Nothing is generated: the prompt comes back, with its logprobs where asked for."""
        return self.max_tokens == 0 and self.echo

    def sampling_params(self, defaults: dict[str, Any]) -> SamplingParams:
        """Raises RequestError naming a field that cannot be honoured."""
        self.check_stream()
        values = {**defaults, **self.common_params(), "max_tokens": self.max_tokens, "logprobs": self.logprobs}
        if self.max_tokens == 0:
            values.update(self._scoring())
        if self.best_of is not None and check_integer("best_of", self.best_of) != self.n:
            if self.best_of < self.n:
                raise RequestError(
                    f"best_of={self.best_of} is below n={self.n}",
                    because="the best n of them are returned",
                    hint=f"best_of of at least {self.n}",
                    param="best_of",
                )
            if self.stream:
                raise unsupported("best_of", "which one is the best is known at the end only; it cannot stream")
            values["n"] = self.best_of
            values["logprobs"] = self.logprobs or 0
        if self.echo and self.logprobs is not None and self.prompt_logprobs != -1:
            values["prompt_logprobs"] = max(self.logprobs, self.prompt_logprobs or 0)
        return SamplingParams(**values)

    def _scoring(self) -> dict[str, Any]:
        """What max_tokens=0 comes to: the engine draws one token, which `without_answer` drops."""
        if not self.echo:
            raise RequestError(
                "max_tokens=0 without echo",
                because="the answer would be empty",
                hint="a max_tokens of at least 1, or echo=true for the prompt alone",
                param="max_tokens",
            )
        if self.min_tokens > 0:
            raise RequestError(
                f"min_tokens={self.min_tokens} is not allowed",
                because="max_tokens is 0",
                hint="the request without min_tokens",
                param="min_tokens",
            )
        return {"max_tokens": 1}

    def prompts(self) -> list[str | list[int]]:
        """The prompts one by one."""
        prompt: Any = self.prompt
        if isinstance(prompt, str) or (prompt and isinstance(prompt[0], int)):
            return [prompt]
        if not prompt:
            raise RequestError(
                "prompt is empty", because="there is nothing to continue", hint="a text or token ids", param="prompt"
            )
        num_sequences = len(prompt) * max(self.n, self.best_of or 1)
        if num_sequences > MAX_N:
            raise RequestError(
                f"{len(prompt)} prompts of {max(self.n, self.best_of or 1)} sequences each",
                because=f"a request has at most {MAX_N} sequences",
                hint="several requests",
                param="prompt",
            )
        return list(prompt)


MESSAGE_FIELDS = ("role", "content", "name", "tool_calls", "tool_call_id", "reasoning_content", "thinking", "reasoning")
"""What a message may hold: the API's fields and the names under which clients send an answer's reasoning."""


class ChatCompletionRequest(SamplingFields):
    """Body of POST /v1/chat/completions. Messages go to the chat template whole; it checks them."""

    foreign: ClassVar[Mapping[str, ForeignField]] = CHAT_FOREIGN

    messages: Objects = Field(min_length=1)
    max_tokens: Whole | None = None
    max_completion_tokens: Whole | None = None
    logprobs: bool = False
    top_logprobs: Whole | None = Field(default=None, ge=0)
    tools: Objects | None = None
    tool_choice: str | dict[str, Any] | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template_kwargs: dict[str, Any] | None = None
    add_special_tokens: bool = False

    @property
    def param_names(self) -> Mapping[str, str]:
        return {"logprobs": "top_logprobs", "prompt": "messages"}

    def sampling_params(self, defaults: dict[str, Any]) -> SamplingParams:
        """Raises RequestError naming a field that cannot be honoured."""
        self.check_stream()
        self._check_messages()
        self._check_tools()
        if self.top_logprobs is not None and not self.logprobs:
            raise RequestError(
                "top_logprobs without logprobs",
                because="it counts alternatives to each token's logprob",
                hint="logprobs=true",
                param="top_logprobs",
            )
        num_top = check_integer("top_logprobs", self.top_logprobs or 0)
        max_tokens = self._max_tokens()
        values = {**defaults, **self.common_params(), "logprobs": num_top if self.logprobs else None}
        values["max_tokens"] = max_tokens if max_tokens is not None else defaults.get("max_tokens")
        return SamplingParams(**values)

    def _max_tokens(self) -> int | None:
        """The limit, under either of its names."""
        limits = [check_optional_integer(name, getattr(self, name)) for name in ("max_completion_tokens", "max_tokens")]
        if None not in limits and limits[0] != limits[1]:
            raise RequestError(
                f"max_completion_tokens={limits[0]} and max_tokens={limits[1]}",
                because="they are two names of one limit",
                hint="one of them",
                param="max_tokens",
            )
        return limits[0] if limits[0] is not None else limits[1]

    def _check_messages(self) -> None:
        """A field that no template would look at is refused; null, or an empty list, means left out."""
        for index, message in enumerate(self.messages):
            unknown = sorted(k for k, value in message.items() if value not in (None, []) and k not in MESSAGE_FIELDS)
            if unknown:
                raise RequestError(
                    f"messages[{index}].{unknown[0]}: unknown field",
                    because=f"a message has {', '.join(MESSAGE_FIELDS)}",
                    hint="the message without it",
                    param=f"messages[{index}].{unknown[0]}",
                )

    def _check_tools(self) -> None:
        if self.tools and self.tool_choice is None:
            raise unsupported("tools", "tool calls are not parsed; tool_choice='none' shows tools to the model only")
        if self.tool_choice is not None and self.tool_choice != "none":
            raise unsupported("tool_choice", "tool calls are not parsed; only 'none' is supported")
