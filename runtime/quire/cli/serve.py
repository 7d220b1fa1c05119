"""`quire serve`: the OpenAI API over HTTP."""

from __future__ import annotations

import argparse

from quire.cli.engine_args import add_engine_arguments, config_from_args
from quire.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `quire serve`."""
    add_engine_arguments(parser, model_positional=True, log_level="info")
    group = parser.add_argument_group("server")
    group.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for all")
    group.add_argument("--port", type=int, default=8000, help="port to listen on; 0 = any free one")
    group.add_argument(
        "--served-model-name", nargs="+", metavar="NAME", help="names in the API; default: the model as given"
    )
    group.add_argument("--api-key", action="append", default=[], help="required of clients; may be repeated")


def run(args: argparse.Namespace) -> int:
    """Serves until interrupted."""
    if not 0 <= args.port < 65536:
        raise ConfigError(f"--port {args.port}", because="ports are 0 to 65535", try_="--port 8000")
    config = config_from_args(args)

    from quire.server.run import run_server

    return run_server(config, host=args.host, port=args.port, model_names=args.served_model_name or [config.model],
                      api_keys=args.api_key, log_level=args.log_level)
