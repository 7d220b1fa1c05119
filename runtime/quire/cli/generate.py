"""`quire generate`: answer one prompt, streaming to standard output."""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING

from quire.cli.engine_args import add_engine_arguments, config_from_args
from quire.cli.sampling_args import add_sampling_arguments, params_from_args
from quire.cli.standard_streams import checked_text
from quire.cli.termination import exit_on_termination
from quire.errors import ConfigError, RequestError

if TYPE_CHECKING:
    from quire.engine.llm_engine import LLMEngine
    from quire.outputs import RequestOutput


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `quire generate`."""
    parser.add_argument("prompt", help="the prompt; '-' reads standard input")
    parser.add_argument("--system", help="system message")
    parser.add_argument("--raw", action="store_true", help="continue the prompt as it is, without the chat template")
    parser.add_argument("--stats", action="store_true", help="print times and token counts to standard error")
    add_engine_arguments(parser)
    add_sampling_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Prints the answer as it comes. 130 where Ctrl-C ended it; what was printed by then stays."""
    from dataclasses import replace

    from quire.cli.streaming import say_if_cut, stream_text
    from quire.engine.llm_engine import LLMEngine

    exit_on_termination()
    config = config_from_args(args)
    if config.skip_tokenizer_init:
        raise ConfigError(
            "quire generate with --skip-tokenizer-init",
            because="it reads and prints text",
            hint="the command without it",
        )
    params_from_args(args, {})  # a wrong one is refused before the model is loaded
    prompt = _read_prompt(args.prompt)
    args.system = checked_text(args.system, "--system") if args.system else None
    start_s = time.monotonic()
    engine = LLMEngine(replace(config, max_num_seqs=config.max_num_seqs or args.n))
    try:
        text, add_special_tokens = _prompt_text(engine, prompt, args)
        params = params_from_args(args, engine.sampling_defaults)
        loaded_s = time.monotonic()
        answer = stream_text(engine, text, params, add_special_tokens=add_special_tokens)
    finally:
        engine.close()
    say_if_cut(answer.output, params, engine.loaded.limits.max_model_len, way_out="--max-tokens N; 0 = no cap")
    if args.stats:
        print_stats(answer.output, loaded_s - start_s)
    return 130 if answer.interrupted else 0


def _read_prompt(word: str) -> str:
    """The prompt of the command line, or all of standard input for "-". Raises RequestError for an empty one."""
    if word == "-" and sys.stdin.isatty():
        print("the prompt, then Ctrl-D:", file=sys.stderr)
    prompt = checked_text(sys.stdin.read() if word == "-" else word, "standard input" if word == "-" else "the prompt")
    if not prompt.strip():
        raise RequestError(
            "the prompt is empty",
            because="standard input has no text" if word == "-" else "it has no text",
            hint='quire generate "What is a block table?"',
            param="prompt",
        )
    return prompt


def _prompt_text(engine: LLMEngine, prompt: str, args: argparse.Namespace) -> tuple[str, bool]:
    """What the model reads, and whether the tokenizer adds its special tokens (a chat template writes its own)."""
    assert engine.tokenizer is not None
    if args.raw or not engine.tokenizer.has_chat_template:
        if args.system:
            raise RequestError(
                "--system needs a chat template",
                because="this run continues raw text",
                hint="no --raw, or a model with a chat template",
            )
        if not args.raw:
            print(
                "the model has no chat template: the prompt is continued as raw text (as with --raw)", file=sys.stderr
            )
        return prompt, True
    system = [{"role": "system", "content": args.system}] if args.system else []
    return engine.render_chat([*system, {"role": "user", "content": prompt}]), False


def print_stats(output: RequestOutput, load_s: float) -> None:
    """Times and counts of one finished request, to standard error."""
    metrics, num_tokens = output.metrics, sum(len(item.token_ids) for item in output.outputs)
    if metrics is None or metrics.first_token_s is None or metrics.finished_s is None:
        print(f"load {load_s:.2f} s; stopped after {num_tokens} tokens", file=sys.stderr)
        return
    first_s, decode_s = metrics.first_token_s - metrics.arrival_s, metrics.finished_s - metrics.first_token_s
    rate = f"{(num_tokens - 1) / decode_s:.1f} tokens/s" if decode_s > 0 and num_tokens > 1 else "one token"
    print(
        f"load {load_s:.2f} s; {len(output.prompt_token_ids)} prompt tokens, first token after {first_s:.3f} s; "
        f"{num_tokens} tokens, {rate}",
        file=sys.stderr,
    )
