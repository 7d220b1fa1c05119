"""`quire serve`: the OpenAI API over HTTP."""

from __future__ import annotations

import argparse
import os

from quire.cli.engine_args import add_engine_arguments, config_from_args
from quire.engine.supervision import Supervision
from quire.server.api_keys import VARIABLE, api_keys
from quire.server.config import ServerConfig

TIMEOUTS = {
    "body": "a request's body may take to arrive",
    "header": "a request's head may take to arrive",
    "keep-alive": "a connection without a request stays open",
    "write": "a client may leave its answer unread",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `quire serve`."""
    add_engine_arguments(parser, model_positional=True, log_level="info")
    _add_server_arguments(parser.add_argument_group("server"))
    _add_supervision(parser.add_argument_group("engine process"))
    _add_text_workers(parser.add_argument_group("text workers"))
    _add_limits(parser.add_argument_group("limits of clients"))


def _add_server_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--host", default=ServerConfig.host, help="address to listen on; 0.0.0.0 for all")
    group.add_argument("--port", type=int, default=ServerConfig.port, help="port to listen on; 0 = any free one")
    group.add_argument(
        "--served-model-name", nargs="+", metavar="NAME", help="names in the API; default: the model as given"
    )
    group.add_argument(
        "--api-key",
        action="append",
        default=[],
        metavar="KEY",
        help=f"required of clients, repeatable; local users can read it, unlike a file or ${VARIABLE}",
    )
    group.add_argument("--api-key-file", metavar="FILE", help="API keys, one a line; # begins a comment")
    group.add_argument(
        "--prefix-cache-scope",
        choices=("global", "key", "request"),
        help="whose requests find each other's prefixes; default: key with several keys, else global",
    )


def _add_supervision(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--on-engine-death",
        choices=("restart", "exit"),
        default=Supervision().on_death,
        help="what the server does when its engine process ends",
    )
    group.add_argument(
        "--max-engine-restarts",
        type=int,
        default=Supervision().max_restarts,
        metavar="N",
        help="restarts within ten minutes; the server ends after more",
    )
    group.add_argument(
        "--health-timeout",
        type=float,
        default=Supervision().health_timeout_s,
        metavar="SECONDS",
        help="an engine that is silent for so long is not healthy",
    )


def _add_text_workers(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--text-workers",
        type=int,
        default=ServerConfig.num_text_workers,
        metavar="N",
        help="processes that tokenize and render chat templates; of several, one takes short texts only",
    )
    group.add_argument(
        "--text-timeout",
        type=float,
        default=ServerConfig.text_timeout_s,
        metavar="SECONDS",
        help="so long one request's text may take; its worker is replaced then",
    )


def _add_limits(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--max-body-bytes",
        type=int,
        metavar="N",
        help="largest body of a request; default: 4 MiB and 16 bytes per token of the model's length",
    )
    group.add_argument(
        "--max-connections",
        type=int,
        default=ServerConfig.max_connections,
        metavar="N",
        help="connections at once; more are answered 503",
    )
    group.add_argument(
        "--max-requests",
        type=int,
        default=ServerConfig.max_requests,
        metavar="N",
        help="requests that run and wait at once; more are answered 503",
    )
    for name, text in TIMEOUTS.items():
        default = getattr(ServerConfig, f"{name.replace('-', '_')}_timeout_s")
        group.add_argument(f"--{name}-timeout", type=float, default=default, metavar="SECONDS", help=f"so long {text}")


def run(args: argparse.Namespace) -> int:
    """Serves until interrupted."""
    config = config_from_args(args)
    server_config = ServerConfig(
        host=args.host,
        port=args.port,
        model_names=tuple(args.served_model_name or [config.model]),
        api_keys=api_keys(args.api_key, args.api_key_file, os.environ),
        prefix_cache_scope=args.prefix_cache_scope,
        log_level=args.log_level,
        supervision=Supervision(
            on_death=args.on_engine_death, max_restarts=args.max_engine_restarts, health_timeout_s=args.health_timeout
        ),
        num_text_workers=args.text_workers,
        text_timeout_s=args.text_timeout,
        max_body_bytes=args.max_body_bytes,
        max_connections=args.max_connections,
        max_requests=args.max_requests,
        body_timeout_s=args.body_timeout,
        header_timeout_s=args.header_timeout,
        keep_alive_timeout_s=args.keep_alive_timeout,
        write_timeout_s=args.write_timeout,
    )

    from quire.server.run import run_server

    return run_server(config, server_config)
