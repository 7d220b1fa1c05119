"""Requests of the OpenAI API as Quire takes them. Unknown fields are refused, never ignored.

A field that OpenAI's clients send and Quire cannot honour yet is declared here with the only value that
means "not used"; any other value is refused by name (`unsupported`).
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from quire.errors import RequestError
from quire.sampling_params import SamplingParams


class StreamOptions(BaseModel):
    """`include_usage`: one more chunk at the end with the token counts."""

    model_config = ConfigDict(extra="forbid")
    include_usage: bool = False
    continuous_usage_stats: bool = False


class SamplingFields(BaseModel):
    """Sampling fields of both endpoints. None = the model's generation_config.json, else the API's default."""

    model_config = ConfigDict(extra="forbid")

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
    user: str | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None

    @model_validator(mode="after")
    def _stream_options_need_stream(self) -> SamplingFields:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is only allowed when stream is true")
        return self

    def common_params(self) -> dict[str, Any]:
        """Arguments of SamplingParams that were given; defaults of the model fill the rest."""
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
    suffix: str | None = None
    add_special_tokens: bool = True

    def sampling_params(self, defaults: dict[str, Any]) -> SamplingParams:
        """Raises RequestError naming a field that cannot be honoured."""
        if self.best_of is not None and self.best_of != self.n:
            raise unsupported("best_of", f"only best_of equal to n={self.n} is supported")
        if self.suffix is not None:
            raise unsupported("suffix", "insertion is not supported")
        if self.stream and self.prompt_logprobs is not None:
            raise unsupported("prompt_logprobs", "it is not available while streaming")
        if self.echo and self.stream:
            raise unsupported("echo", "it is not available while streaming")
        wanted = {"max_tokens": self.max_tokens, "logprobs": self.logprobs}
        if self.echo and self.logprobs is not None and self.prompt_logprobs is None:
            wanted["prompt_logprobs"] = self.logprobs
        return SamplingParams(**{**defaults, **self.common_params(), **wanted})

    def prompts(self) -> list[str | list[int]]:
        """The prompts one by one."""
        prompt: Any = self.prompt
        if isinstance(prompt, str) or (prompt and isinstance(prompt[0], int)):
            return [prompt]
        if not prompt:
            raise RequestError("prompt is empty", because="there is nothing to continue", try_="a text or token ids",
                               param="prompt")
        return list(prompt)


class TextPart(BaseModel):
    """One text part of a message."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """One message. Fields beyond these go to the chat template as they are (tool calls, names, reasoning)."""

    model_config = ConfigDict(extra="allow")
    role: str
    content: str | list[TextPart] | None = None

    def for_template(self) -> dict[str, Any]:
        """A plain dict with text parts joined."""
        message = self.model_dump(exclude_none=True)
        if isinstance(self.content, list):
            message["content"] = "".join(part.text for part in self.content)
        return message


class ResponseFormat(BaseModel):
    """Only {"type": "text"} is honoured."""

    model_config = ConfigDict(extra="allow")
    type: str = "text"


class ChatCompletionRequest(SamplingFields):
    """Body of POST /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1)
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

    def sampling_params(self, defaults: dict[str, Any]) -> SamplingParams:
        """Raises RequestError naming a field that cannot be honoured."""
        if self.response_format is not None and self.response_format.type != "text":
            raise unsupported("response_format", "only {'type': 'text'} is supported")
        if self.tools and self.tool_choice not in (None, "none"):
            raise unsupported("tool_choice", "tool calls are not parsed; only 'none' is supported")
        if self.tools and self.tool_choice is None:
            raise unsupported("tools", "tool calls are not parsed yet; send tool_choice='none' to show tools to the model only")
        if self.parallel_tool_calls and not self.tools:
            raise unsupported("parallel_tool_calls", "there are no tools")
        if self.top_logprobs is not None and not self.logprobs:
            raise RequestError("top_logprobs without logprobs", because="it counts alternatives to each token's logprob",
                               try_="logprobs=true", param="top_logprobs")
        if self.stream and self.prompt_logprobs is not None:
            raise unsupported("prompt_logprobs", "it is not available while streaming")
        max_tokens = self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens
        logprobs = (self.top_logprobs or 0) if self.logprobs else None
        values = {**defaults, **self.common_params(), "logprobs": logprobs}
        values["max_tokens"] = max_tokens if max_tokens is not None else defaults.get("max_tokens")
        return SamplingParams(**values)


def unsupported(param: str, because: str) -> RequestError:
    """The refusal of a field that Quire cannot honour."""
    return RequestError(f"{param} is not supported", because=because, try_=f"the request without {param}", param=param)
