"""Everything about `quire serve` that is not the engine's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from quire.engine.supervision import Supervision
from quire.errors import ConfigError

PrefixCacheScope = Literal["global", "key", "request"]


@dataclass(frozen=True, kw_only=True)  # no slots: defaults are read from the class
class ServerConfig:
    """The address, the names, the keys and the limits of one server. Times are in seconds.

    Attributes:
        model_names: what clients call the model; the first is the answer's `model`.
        api_keys: one of them is required of clients; none = everybody may use the server.
        prefix_cache_scope: whose requests may find each other's prefixes; None = key with several keys, else global.
        max_body_bytes: largest body of a request; None = 4 MiB and 16 bytes for each token of the model's length.
        body_timeout_s: from the head of a request to the end of its body.
        header_timeout_s: from the first byte of a request, or the connection, to the end of its head.
        keep_alive_timeout_s: how long a connection without a request stays open.
        write_timeout_s: how long a client may leave what is sent to it unread.
        max_connections: open at once; more are answered 503, or closed when they are many more.
        supervision: what becomes of an engine process that ends or is stuck.
        max_requests: of clients, running and waiting together; more are answered 503.
        num_text_workers, text_timeout_s: of `TextWorkers`.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    model_names: tuple[str, ...] = ()
    api_keys: tuple[str, ...] = ()
    prefix_cache_scope: PrefixCacheScope | None = None
    log_level: str = "info"
    max_body_bytes: int | None = None
    body_timeout_s: float = 60.0
    header_timeout_s: float = 10.0
    keep_alive_timeout_s: float = 5.0
    write_timeout_s: float = 60.0
    max_connections: int = 1024
    max_requests: int = 1024
    supervision: Supervision = field(default_factory=Supervision)
    num_text_workers: int = 2
    text_timeout_s: float = 30.0

    def __post_init__(self) -> None:
        if not 0 <= self.port < 65536:
            raise ConfigError(f"--port {self.port}", because="ports are 0 to 65535", hint="--port 8000")
        for name in ("body_timeout_s", "header_timeout_s", "keep_alive_timeout_s", "write_timeout_s", "text_timeout_s"):
            value = getattr(self, name)
            if not 0 < value <= 86400:
                flag = "--" + name.removesuffix("_s").replace("_", "-")
                raise ConfigError(
                    f"{flag} {value}", because="it is a number of seconds, up to a day", hint=f"{flag} 60"
                )
        if not 1 <= self.num_text_workers <= 64:
            raise ConfigError(
                f"--text-workers {self.num_text_workers}", because="each is a process", hint="--text-workers 2"
            )
        for name in ("max_connections", "max_requests", "max_body_bytes"):
            value = getattr(self, name)
            if value is not None and not 1 <= value < 1 << 31:
                flag = "--" + name.replace("_", "-")
                raise ConfigError(
                    f"{flag} {value}", because="it is a count from 1 to 2**31 - 1", hint=f"the default, without {flag}"
                )
