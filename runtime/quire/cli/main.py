"""Entry point of the `quire` command."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from importlib import import_module

from quire import __version__
from quire.child_process import leave_current_folder
from quire.cli.backend_options import split_backend_options
from quire.cli.help_format import HelpFormatter
from quire.cli.parser import Parser, refuse_foreign_flags
from quire.cli.standard_streams import flush_output, prepare_streams
from quire.cli.vllm_flags import take_vllm_flags
from quire.errors import QuireError

COMMANDS = {
    "generate": "answer one prompt",
    "chat": "talk with a model in the terminal",
    "run": "chat, or one answer to the prompt after the model's name",
    "serve": "serve the OpenAI API over HTTP",
    "devices": "list every backend found, available or why not",
    "models": "list the model architectures that Quire runs",
    "inspect": "show a model's graph with FLOPs, bytes and KV blocks",
    "bench": "measure latency, throughput or the core's overhead",
    "conform": "hold a backend against the contract and the reference",
    "help": "explain a command",
}
"""Subcommand -> one-line help. Each lives in `quire.cli.<name>` as `add_arguments(parser)` and `run(args) -> int`."""


def build_parser(only: str | None = None) -> argparse.ArgumentParser:
    """The parser; `only` fills in the arguments of one subcommand, so that the others need not be imported."""
    parser = Parser(prog="quire", description="LLM inference and serving for any device.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"quire {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, text in COMMANDS.items():
        sub = subparsers.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            allow_abbrev=False,
            formatter_class=HelpFormatter,
        )
        if only in (name, None):
            module = import_module(f"quire.cli.{name}")
            module.add_arguments(sub)
            sub.set_defaults(run=module.run)
    return parser


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The parsed command line, with `backend_options` beside the declared flags. Exits with 2 on a wrong one."""
    parser = build_parser(next((word for word in words if word in COMMANDS), ""))
    words, backend_options = split_backend_options(take_vllm_flags(words, parser), parser)
    refuse_foreign_flags(words, parser)
    args, rest = parser.parse_known_args(words)
    if rest and hasattr(args, "prompt_words") and not any(word.startswith("-") for word in rest):
        args.prompt_words += rest  # argparse takes no words of one list from both sides of a flag
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if backend_options and not hasattr(args, "device_option"):
        parser.error(f"unrecognized arguments: {backend_options[0].flag} (quire {args.command} runs no model)")
    args.backend_options = backend_options
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command. A user's mistake gets a message and exit code 2, a bug gets a traceback."""
    prepare_streams()
    try:
        if argv is None:
            leave_current_folder()
        args = parse(list(sys.argv[1:] if argv is None else argv))
        level = getattr(args, "log_level", "warning").upper()
        logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
        logging.getLogger("quire").setLevel(level)
        return int(args.run(args))
    except QuireError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 141
    finally:
        flush_output()


if __name__ == "__main__":
    sys.exit(main())
