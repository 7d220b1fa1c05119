"""Requests of the OpenAI API as Quire takes them. Unknown fields are refused, never ignored.

A field that OpenAI's clients send and Quire cannot honour yet is declared here with the only values that mean
"not used"; any other value is refused by name (`unsupported`). `null` means the same as leaving a field out.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from quire.errors import RequestError
from quire.sampling_params import SamplingParams


class StreamOptions(BaseModel):
    """`include_usage`: one more chunk at the end with the token counts; `continuous_usage_stats`: in every chunk."""

    model_config = ConfigDict(extra="forbid", strict=True)
    include_usage: bool = False
    continuous_usage_stats: bool = False


class SamplingFields(BaseModel):
    """Sampling fields of both endpoints. None = the model's generation_config.json, else the API's default."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str | None = None
    n: int = 1
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    bad_words: list[str] | None = None
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    min_tokens: int = 0
    skip_special_tokens: bool = True
    logit_bias: dict[str, float] | None = None
    allowed_token_ids: list[int] | None = None
    prompt_logprobs: int | None = None
    priority: int = 0
    cache_salt: str | None = Field(default=None, min_length=1)
    user: str | None = Field(default=None, description="Written to the server's log beside the request's id.")
    stream: bool = False
    stream_options: StreamOptions | None = None
    service_tier: Literal["auto", "default"] | None = None

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        kept = ("max_tokens",)  # there null is a value: up to the model's length
        return {name: value for name, value in data.items()
                if value is not None or name in kept or name not in cls.model_fields}

    @model_validator(mode="after")
    def _stream_options_need_stream(self) -> SamplingFields:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is only allowed when stream is true")
        return self

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def continuous_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.continuous_usage_stats

    def common_params(self) -> dict[str, Any]:
        """Arguments of SamplingParams that were given; defaults of the model fill the rest."""
        if self.stream and self.prompt_logprobs is not None:
            raise unsupported("prompt_logprobs", "it is not available while streaming")
        values: dict[str, Any] = {
            "n": self.n, "presence_penalty": self.presence_penalty, "frequency_penalty": self.frequency_penalty,
            "seed": self.seed, "stop": self.stop, "stop_token_ids": self.stop_token_ids, "bad_words": self.bad_words,
            "include_stop_str_in_output": self.include_stop_str_in_output, "ignore_eos": self.ignore_eos,
            "min_tokens": self.min_tokens, "skip_special_tokens": self.skip_special_tokens,
            "logit_bias": self.logit_bias, "allowed_token_ids": self.allowed_token_ids,
            "prompt_logprobs": self.prompt_logprobs,
        }
        for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty"):
            if getattr(self, name) is not None:
                values[name] = getattr(self, name)
        return values


class CompletionRequest(SamplingFields):
    """Body of POST /v1/completions."""

    prompt: str | list[str] | list[int] | list[list[int]]
    max_tokens: int | None = 16
    logprobs: int | None = Field(default=None, ge=0)
    echo: bool = False
    best_of: int | None = None
    suffix: Literal[""] | None = None
    add_special_tokens: bool = True

    def sampling_params(self, defaults: dict[str, Any]) -> SamplingParams:
        """Raises RequestError naming a field that cannot be honoured."""
        values = {**defaults, **self.common_params(), "max_tokens": self.max_tokens, "logprobs": self.logprobs}
        if self.best_of is not None and self.best_of != self.n:
            if self.best_of < self.n:
                raise RequestError(
                    f"best_of={self.best_of} is below n={self.n}",
                    because="the best n of them are returned",
                    try_=f"best_of of at least {self.n}",
                    param="best_of",
                )
            if self.stream:
                raise unsupported("best_of", "which one is the best is known at the end only; it cannot stream")
            values["n"] = self.best_of
            values["logprobs"] = self.logprobs or 0
        if self.echo and self.logprobs is not None and self.prompt_logprobs is None:
            values["prompt_logprobs"] = self.logprobs
        return SamplingParams(**values)

    def prompts(self) -> list[str | list[int]]:
        """The prompts one by one."""
        prompt: Any = self.prompt
        if isinstance(prompt, str) or (prompt and isinstance(prompt[0], int)):
            return [prompt]
        if not prompt:
            raise RequestError("prompt is empty", because="there is nothing to continue", try_="a text or token ids",
                               param="prompt")
        return list(prompt)


class ResponseFormat(BaseModel):
    """Only {"type": "text"} is honoured."""

    model_config = ConfigDict(extra="allow", strict=True)
    type: str = "text"


MESSAGE_FIELDS = ("role", "content", "name", "tool_calls", "tool_call_id", "reasoning_content", "thinking", "reasoning")
"""What a message may hold: the API's fields and the names under which clients send an answer's reasoning."""


class ChatCompletionRequest(SamplingFields):
    """Body of POST /v1/chat/completions. Messages go to the chat template whole; it checks them."""

    messages: list[dict[str, Any]] = Field(min_length=1)
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    logprobs: bool = False
    top_logprobs: int | None = Field(default=None, ge=0)
    response_format: ResponseFormat | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template_kwargs: dict[str, Any] | None = None
    store: Literal[False] | None = None
    modalities: list[Literal["text"]] | None = None

    def sampling_params(self, defaults: dict[str, Any]) -> SamplingParams:
        """Raises RequestError naming a field that cannot be honoured."""
        self._check_messages()
        if self.response_format is not None and self.response_format != ResponseFormat():
            raise unsupported("response_format", "only {'type': 'text'} is supported")
        self._check_tools()
        if self.top_logprobs is not None and not self.logprobs:
            raise RequestError(
                "top_logprobs without logprobs",
                because="it counts alternatives to each token's logprob",
                try_="logprobs=true",
                param="top_logprobs",
            )
        max_tokens = self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens
        if self.max_tokens is not None and max_tokens != self.max_tokens:
            raise RequestError(f"max_completion_tokens={max_tokens} and max_tokens={self.max_tokens}",
                               because="they are two names of one limit", try_="one of them", param="max_tokens")
        values = {**defaults, **self.common_params(), "logprobs": (self.top_logprobs or 0) if self.logprobs else None}
        values["max_tokens"] = max_tokens if max_tokens is not None else defaults.get("max_tokens")
        return SamplingParams(**values)

    def _check_messages(self) -> None:
        """A field that no template would look at is refused; null means left out."""
        for index, message in enumerate(self.messages):
            unknown = sorted(k for k, value in message.items() if value is not None and k not in MESSAGE_FIELDS)
            if unknown:
                raise RequestError(f"messages[{index}].{unknown[0]}: unknown field",
                                   because=f"a message has {', '.join(MESSAGE_FIELDS)}",
                                   try_="the message without it", param=f"messages[{index}].{unknown[0]}")

    def _check_tools(self) -> None:
        if self.tools and self.tool_choice is None:
            raise unsupported("tools", "tool calls are not parsed; tool_choice='none' shows tools to the model only")
        if self.tool_choice is not None and self.tool_choice != "none":
            raise unsupported("tool_choice", "tool calls are not parsed; only 'none' is supported")
        if self.parallel_tool_calls and not self.tools:
            raise unsupported("parallel_tool_calls", "there are no tools")


def unsupported(param: str, because: str) -> RequestError:
    """The refusal of a field that Quire cannot honour."""
    return RequestError(f"{param} is not supported", because=because, try_=f"the request without {param}", param=param)
