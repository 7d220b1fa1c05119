"""`quire run MODEL [PROMPT...]`: a chat with a model, or one answer where a prompt is given."""

from __future__ import annotations

import argparse

from quire.cli import chat, generate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `quire chat`, and the prompt."""
    chat.add_arguments(parser)
    parser.add_argument("prompt_words", nargs="*", metavar="PROMPT", help="answer this once, and end")


def run(args: argparse.Namespace) -> int:
    """One answer, or a conversation."""
    if args.model is not None and args.model_word is not None:  # the model's name is given: all words are the prompt's
        args.prompt_words, args.model_word = [args.model_word, *args.prompt_words], None
    if not args.prompt_words:
        return chat.run(args)
    args.prompt, args.raw, args.stats = " ".join(args.prompt_words), False, False
    return generate.run(args)
