"""Fields that both endpoints have. Unknown ones are refused, never ignored; `null` means left out, everywhere.

Fields of OpenAI's and vLLM's APIs that Quire does not have are in `foreign_request_fields`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from quire.errors import RequestError
from quire.field_ranges import check_integer
from quire.foreign_fields import ForeignField, first_refused, refusal_text
from quire.server.foreign_request_fields import STREAM_OPTIONS_FOREIGN
from quire.server.list_fields import Texts, TokenIds


def _whole(value: Any) -> Any:
    """A whole number that came as 1.0, which some clients' JSON cannot tell from 1."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_whole)]
"""An int, or a float without a fraction; no text and no bool."""


def without_nulls(values: Mapping[str, Any], table: Mapping[str, ForeignField], where: str = "") -> dict[str, Any]:
    """The fields that are not null, without those of `table`. Raises RequestError for one that is refused."""
    name = first_refused(table, values, "a request")
    if name is not None:
        what, because, hint = refusal_text(name, values[name], table[name])
        raise RequestError(what, because=because, hint=hint, param=where or name)
    return {name: value for name, value in values.items() if value is not None and name not in table}


class StreamOptions(BaseModel):
    """What a stream tells beside the text.

    Attributes:
        include_usage: one more chunk at the end with the token counts; usage is null in the others.
        continuous_usage_stats: the counts so far in every chunk.
    """

    model_config = ConfigDict(extra="forbid", strict=True)
    include_usage: bool = False
    continuous_usage_stats: bool = False

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, data: Any) -> Any:
        return without_nulls(data, STREAM_OPTIONS_FOREIGN, "stream_options") if isinstance(data, dict) else data


class SamplingFields(BaseModel):
    """Sampling fields of both endpoints. None = the model's generation_config.json, else the API's default."""

    model_config = ConfigDict(extra="forbid", strict=True)
    foreign: ClassVar[Mapping[str, ForeignField]] = {}

    model: str | None = None
    n: Whole = 1
    temperature: float | None = None
    top_p: float | None = None
    top_k: Whole | None = None
    min_p: float | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float | None = None
    seed: Whole | None = None
    stop: str | Texts | None = None
    stop_token_ids: TokenIds | None = None
    bad_words: Texts | None = None
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    min_tokens: Whole = 0
    skip_special_tokens: bool = True
    logit_bias: dict[str, float] | None = None
    allowed_token_ids: TokenIds | None = None
    prompt_logprobs: Whole | None = None
    priority: Whole = 0
    cache_salt: str | None = Field(default=None, min_length=1, max_length=1024)
    request_id: str | None = Field(default=None, min_length=1, max_length=128, pattern=r"^[\x21-\x7e]+$")
    user: str | None = Field(default=None, description="Written to the server's log beside the request's id.")
    stream: bool = False
    stream_options: StreamOptions | None = None
    return_token_ids: bool = False
    return_tokens_as_token_ids: bool = False

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        bias = data.get("logit_bias")
        if isinstance(bias, dict):
            data = {**data, "logit_bias": {key: value for key, value in bias.items() if value is not None}}
        kept = {"max_tokens": None} if data.get("max_tokens", 0) is None else {}  # null: up to the model's length
        return {**kept, **without_nulls(data, cls.foreign)}

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def continuous_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.continuous_usage_stats

    @property
    def param_names(self) -> Mapping[str, str]:
        """Name of a field in the engine -> its name in this request, where they differ."""
        return {}

    @contextmanager
    def own_names(self) -> Iterator[None]:
        """A RequestError raised inside names the field as this request does."""
        try:
            yield
        except RequestError as error:
            name = self.param_names.get(error.param or "")
            if name is None:
                raise
            what = error.what.replace(f"{error.param}=", f"{name}=", 1)
            raise RequestError(what, because=error.because, hint=error.hint, param=name) from error

    def check_stream(self) -> None:
        """Raises RequestError for what does not go with streaming, or not without."""
        check_integer("priority", self.priority)
        if self.stream_options is not None and not self.stream:
            raise RequestError(
                "stream_options without stream",
                because="they are about a stream",
                hint="stream=true",
                param="stream_options",
            )
        if self.stream and self.prompt_logprobs is not None:
            raise unsupported("prompt_logprobs", "it is not available while streaming")

    def common_params(self) -> dict[str, Any]:
        """Arguments of SamplingParams that were given; defaults of the model fill the rest."""
        values: dict[str, Any] = {
            "n": self.n,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "seed": self.seed,
            "stop": self.stop,
            "stop_token_ids": self.stop_token_ids,
            "bad_words": self.bad_words,
            "include_stop_str_in_output": self.include_stop_str_in_output,
            "ignore_eos": self.ignore_eos,
            "min_tokens": self.min_tokens,
            "skip_special_tokens": self.skip_special_tokens,
            "logit_bias": self.logit_bias,
            "allowed_token_ids": self.allowed_token_ids,
            "prompt_logprobs": self.prompt_logprobs,
        }
        for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty"):
            if getattr(self, name) is not None:
                values[name] = getattr(self, name)
        return values


def unsupported(param: str, because: str) -> RequestError:
    """The refusal of a field that Quire cannot honour."""
    return RequestError(f"{param} is not supported", because=because, hint=f"the request without {param}", param=param)
