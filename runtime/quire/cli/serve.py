"""`quire serve`: the OpenAI API over HTTP."""

from __future__ import annotations

import argparse
import os
from typing import Any

from quire.cli.engine_args import add_engine_arguments, config_from_args
from quire.engine.supervision import Supervision
from quire.options import add_flags, options_of
from quire.server.api_keys import VARIABLE, api_keys
from quire.server.config import ServerConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `quire serve`."""
    add_engine_arguments(parser, model_positional=True, log_level="info")
    server = parser.add_argument_group("server")
    server.add_argument(
        "--served-model-name", nargs="+", metavar="NAME", help="names in the API; default: the model as given"
    )
    server.add_argument(
        "--api-key",
        action="append",
        default=[],
        metavar="KEY",
        help=f"required of clients, repeatable; local users can read it, unlike a file or ${VARIABLE}",
    )
    server.add_argument("--api-key-file", metavar="FILE", help="API keys, one a line; # begins a comment")
    add_flags(server, ServerConfig)
    add_flags(parser.add_argument_group("engine process"), Supervision)


def run(args: argparse.Namespace) -> int:
    """Serves until interrupted."""
    config = config_from_args(args)
    server_config = ServerConfig(
        **_given(args, ServerConfig),
        model_names=tuple(args.served_model_name or [config.model]),
        api_keys=api_keys(args.api_key, args.api_key_file, os.environ),
        log_level=args.log_level,
        supervision=Supervision(**_given(args, Supervision)),
    )

    from quire.server.run import run_server

    return run_server(config, server_config)


def _given(args: argparse.Namespace, config: type) -> dict[str, Any]:
    """What the flags of a configuration class say, by field."""
    return {item.name: getattr(args, item.name) for item in options_of(config) if item.flag}
