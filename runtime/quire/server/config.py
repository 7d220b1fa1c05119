"""Everything about `quire serve` that is not the engine's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from quire.engine.supervision import Supervision
from quire.options import Count, Seconds, Text, check_options, option

PrefixCacheScope = Literal["global", "key", "request"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerConfig:
    """The address, the names, the keys and the limits of one server. Each option says itself what it means.

    Attributes:
        model_names: what clients call the model; the first is the answer's `model`.
        api_keys: one of them is required of clients; none = everybody may use the server.
        supervision: what becomes of an engine process that ends or is stuck.
    Raises: ConfigError that names the field.
    """

    model_names: tuple[str, ...] = ()
    api_keys: tuple[str, ...] = ()
    log_level: str = "info"
    supervision: Supervision = field(default_factory=Supervision)
    host: str = option("127.0.0.1", "address to listen on; 0.0.0.0 for all", Text())
    port: int = option(8000, "port to listen on; 0 = any free one", Count(0, 65535, because="ports are 0 to 65535"))
    prefix_cache_scope: PrefixCacheScope | None = option(
        None,
        "whose requests find each other's prefixes",
        Text(choices=("global", "key", "request")),
        default_text="key with several keys, else global",
        is_listed=True,
    )
    num_text_workers: int = option(
        2,
        "processes that tokenize and render chat templates; of several, one takes short texts only",
        Count(1, 64, because="each is a process"),
        flag="--text-workers",
        metavar="N",
    )
    text_timeout_s: float = option(
        30.0,
        "so long one request's text may take; its worker is replaced then",
        Seconds(),
        flag="--text-timeout",
        metavar="SECONDS",
    )
    max_body_bytes: int | None = option(
        None,
        "largest body of a request; more is answered 413",
        Count(1),
        metavar="N",
        default_text="4 MiB and 16 bytes per token of the model's length",
    )
    max_connections: int = option(
        1024, "connections at once; more are answered 503, or closed when they are many more", Count(1), metavar="N"
    )
    max_requests: int = option(1024, "requests that run and wait at once; more are answered 503", Count(1), metavar="N")
    header_timeout_s: float = option(
        10.0, "so long a request's head may take to arrive", Seconds(), flag="--header-timeout", metavar="SECONDS"
    )
    body_timeout_s: float = option(
        60.0, "so long a request's body may take to arrive", Seconds(), flag="--body-timeout", metavar="SECONDS"
    )
    keep_alive_timeout_s: float = option(
        5.0,
        "so long a connection without a request stays open",
        Seconds(),
        flag="--keep-alive-timeout",
        metavar="SECONDS",
    )
    write_timeout_s: float = option(
        60.0, "so long a client may leave its answer unread", Seconds(), flag="--write-timeout", metavar="SECONDS"
    )

    def __post_init__(self) -> None:
        check_options(self)
