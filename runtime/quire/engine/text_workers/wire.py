"""What travels between a server and its text workers: frames of a length and msgpack, over a socket each."""

from __future__ import annotations

from typing import IO

import msgspec

from quire.engine.input_processor import ModelLimits
from quire.engine.messages import EngineRequest, Failure
from quire.engine.text_side import TextSource
from quire.sampling_params import SamplingParams

LENGTH_BYTES = 4


class Setup(msgspec.Struct, tag=True):
    """The first frame. log_level: as `logging` counts. timeout_s: longest time of one job; the worker ends itself then.

    memory_bytes: what jobs may take beyond what the tokenizer takes.
    """

    source: TextSource
    log_level: int
    timeout_s: float
    memory_bytes: int


class Prepare(msgspec.Struct, tag=True):
    """`InputProcessor.prepare`, which `limits` makes."""

    limits: ModelLimits
    prompt: str | list[int]
    params: SamplingParams
    request_id: str
    priority: int
    cache_salt: str | None
    add_special_tokens: bool


class Render(msgspec.Struct, tag=True):
    """`Tokenizer.apply_chat_template`; conversation: JSON of {"messages": ..., "options": ...}, bounded in its text.

    JSON, since what a client sends may hold numbers and half characters that msgpack cannot carry.
    """

    conversation: str
    max_chars: int


class Ready(msgspec.Struct, tag=True):
    """The answer to Setup."""


class Prepared(msgspec.Struct, tag=True):
    """The answer to Prepare, field by field as `PreparedRequest`."""

    message: EngineRequest
    prompt: str | None
    detokenize: bool


class Rendered(msgspec.Struct, tag=True):
    """The answer to Render."""

    prompt: str


class Failed(msgspec.Struct, tag=True):
    """The answer to anything that cannot be done."""

    failure: Failure


Job = Prepare | Render
Answer = Ready | Prepared | Rendered | Failed

encode = msgspec.msgpack.Encoder().encode
decode_setup = msgspec.msgpack.Decoder(Setup).decode
decode_job = msgspec.msgpack.Decoder(Job).decode
decode_answer = msgspec.msgpack.Decoder(Answer).decode


def frame(message: msgspec.Struct) -> bytes:
    """The bytes of one message. Raises what msgspec raises for text and numbers that msgpack cannot carry."""
    payload = encode(message)
    return len(payload).to_bytes(LENGTH_BYTES, "little") + payload


def read_frame(pipe: IO[bytes]) -> bytes | None:
    """The next message's payload; None when the other side has gone."""
    head = pipe.read(LENGTH_BYTES)
    size = int.from_bytes(head, "little")
    payload = pipe.read(size)
    return payload if len(head) == LENGTH_BYTES and len(payload) == size else None
