"""`quire chat`: a conversation in the terminal, with history."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from quire.cli.engine_args import add_engine_arguments, config_from_args
from quire.cli.sampling_args import add_sampling_arguments, params_from_args
from quire.errors import ConfigError, RequestError

if TYPE_CHECKING:
    from quire.engine.llm_engine import LLMEngine

HELP = "/clear forgets the conversation, /exit (or Ctrl-D) leaves, Ctrl-C stops an answer"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `quire chat`."""
    parser.add_argument("--system", help="system message")
    add_engine_arguments(parser, model_positional=True)
    add_sampling_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Reads, answers, remembers, until end of input."""
    from dataclasses import replace

    from quire.engine.llm_engine import LLMEngine

    if args.n != 1:
        raise RequestError(f"-n {args.n}", because="a conversation goes on from one answer", try_="-n 1", param="n")
    config = config_from_args(args)
    if config.skip_tokenizer_init:
        raise ConfigError("quire chat with --skip-tokenizer-init", because="it reads and prints text",
                          try_="the command without it")
    params_from_args(args, {})  # a wrong one is refused before the model is loaded
    engine = LLMEngine(replace(config, max_num_seqs=config.max_num_seqs or 1))
    start = [{"role": "system", "content": args.system}] if args.system else []
    messages = list(start)
    print(f"{config.model}: {HELP}", file=sys.stderr)
    try:
        while (line := _read_line()) is not None:
            if line in ("/exit", "/quit"):
                break
            if line == "/clear":
                messages = list(start)
            elif line.startswith("/"):
                print(HELP, file=sys.stderr)
            elif line:
                _answer(engine, messages, line, args)
    finally:
        engine.close()
    return 0


def _answer(engine: LLMEngine, messages: list[dict[str, str]], line: str, args: argparse.Namespace) -> None:
    """Prints the answer and remembers both; a line that cannot be answered is forgotten."""
    from quire.cli.streaming import stream_text

    messages.append({"role": "user", "content": line})
    try:
        output = stream_text(engine, engine.render_chat(messages), params_from_args(args, engine.sampling_defaults),
                             add_special_tokens=False)
        messages.append({"role": "assistant", "content": output.outputs[0].text})
    except RequestError as error:
        messages.pop()
        print(f"error: {error}\n({HELP})", file=sys.stderr)


def _read_line() -> str | None:
    """One line without its ends; None at end of input."""
    try:
        if sys.stdin.isatty():
            import readline  # noqa: F401  (line editing and history for input())
        return input("> " if sys.stdin.isatty() else "").strip()
    except (EOFError, KeyboardInterrupt):
        return None
