"""`quire help`: what a command does and which flags it has."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command to explain."""
    parser.add_argument("topic", nargs="*", metavar="COMMAND", help="command to explain; default: all, a line each")


def run(args: argparse.Namespace) -> int:
    """Prints what `quire COMMAND --help` prints. Exits with 2 for a command that there is not."""
    from quire.cli.main import build_parser

    build_parser(next(iter(args.topic), "")).parse_args([*args.topic, "--help"])
    return 0
