"""`quire chat`: a conversation in the terminal, with history."""

from __future__ import annotations

import argparse

from quire.cli.engine_args import add_engine_arguments, config_from_args
from quire.cli.sampling_args import add_sampling_arguments, params_from_args, sampling_values
from quire.cli.standard_streams import checked_text
from quire.cli.termination import exit_on_termination
from quire.errors import ConfigError, RequestError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `quire chat`."""
    parser.add_argument("--system", help="system message")
    add_engine_arguments(parser, model_positional=True)
    add_sampling_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Reads, answers, remembers, until end of input."""
    from dataclasses import replace

    from quire.cli.chat.conversation import Conversation
    from quire.cli.chat.session import Session
    from quire.cli.chat.settings import Settings
    from quire.engine.llm_engine import LLMEngine

    exit_on_termination()
    if args.n != 1:
        raise RequestError(
            f"-n {args.n}",
            because="it is the number of answers, and a conversation goes on from one",
            hint=f"--max-tokens {args.n}, where a cap on the answer was meant",
            param="n",
        )
    config = config_from_args(args)
    if config.skip_tokenizer_init:
        raise ConfigError(
            "quire chat with --skip-tokenizer-init", because="it reads and prints text", hint="the command without it"
        )
    params_from_args(args, {})  # a wrong one is refused before the model is loaded
    system = checked_text(args.system, "--system") if args.system else None
    engine = LLMEngine(replace(config, max_num_seqs=config.max_num_seqs or 1))
    try:
        assert engine.tokenizer is not None
        if not engine.tokenizer.has_chat_template:
            raise ConfigError(
                "quire chat with a model that has no chat template",
                because="it was not trained on conversations, or its template is in another file",
                hint="--chat-template FILE, or quire generate, which continues raw text",
            )
        settings = Settings(sampling_values(args, engine.sampling_defaults))
        Session(engine, config.model, Conversation(system), settings).talk()
    finally:
        engine.close()
    return 0
