"""What travels between a front end and an engine process beside requests and outputs, and in which frames."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import IO

import msgspec

from quire.engine.config import EngineConfig
from quire.engine.messages import Failure

# Kinds of messages; every message is [kind, payload].
ADD, ABORT, STATS = b"add", b"abort", b"stats"
READY, FAILED, OUTPUTS, REFUSED, STATS_REPLY = b"ready", b"failed", b"outputs", b"refused", b"stats_reply"
HEARTBEAT = b"heartbeat"  # EngineStats, unasked; also in steps that bring nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Startup:
    """What the parent tells the engine process.

    socket_folder: holds both sockets; the engine process removes it when the parent goes without doing so.
    log_level: the parent's, as `logging` counts.
    """

    config: EngineConfig
    socket_folder: str
    log_level: int = logging.WARNING

    @property
    def requests_address(self) -> str:
        return f"ipc://{self.socket_folder}/requests"

    @property
    def outputs_address(self) -> str:
        return f"ipc://{self.socket_folder}/outputs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A request that the core refused."""

    request_id: str
    failure: Failure


def write_startup(pipe: IO[bytes], startup: Startup) -> None:
    """Writes the first frame: 4 bytes of length, then msgpack."""
    payload = msgspec.msgpack.encode(startup)
    pipe.write(len(payload).to_bytes(4, "little") + payload)
    pipe.flush()


def read_startup(pipe: IO[bytes]) -> Startup | None:
    """Reads the first frame; None when the writer went before it had written it."""
    size = int.from_bytes(pipe.read(4), "little")
    payload = pipe.read(size)
    return msgspec.msgpack.decode(payload, type=Startup) if size and len(payload) == size else None
