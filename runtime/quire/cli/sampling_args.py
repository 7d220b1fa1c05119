"""Command-line flags of `SamplingParams`."""

from __future__ import annotations

import argparse
from typing import Any

from quire.errors import RequestError

DEFAULT_MAX_TOKENS = 1024
"""Where neither the flag nor the model says anything; a model that does not end would go on for minutes."""


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags. None = the model's generation_config.json, else the API's default."""
    group = parser.add_argument_group("sampling")
    group.add_argument(
        "--max-tokens",
        type=int,
        default=None,
        help=f"most tokens of an answer; 0 = up to the context; default: the model's generation_config, "
        f"else {DEFAULT_MAX_TOKENS}",
    )
    group.add_argument("--min-tokens", type=int, default=0, help="no end of text before so many tokens")
    group.add_argument("--temperature", type=float, default=None, help="0 = greedy")
    group.add_argument("--top-k", type=int, default=None, help="draw from so many most likely tokens; 0 = all")
    group.add_argument(
        "--top-p", type=float, default=None, help="draw from the likeliest tokens that have this probability together"
    )
    group.add_argument(
        "--min-p", type=float, default=None, help="draw from tokens at least this likely beside the likeliest"
    )
    group.add_argument("--presence-penalty", type=float, default=0.0, help="for tokens the answer has, -2 to 2")
    group.add_argument("--frequency-penalty", type=float, default=0.0, help="the same per occurrence, -2 to 2")
    group.add_argument(
        "--repetition-penalty", type=float, default=None, help="for tokens of prompt and answer; 1 = none"
    )
    group.add_argument("--sampling-seed", type=int, default=None, help="seed of this request; default: from --seed")
    group.add_argument("--stop", action="append", default=[], help="stop string, may be repeated")
    group.add_argument("--ignore-eos", action="store_true", help="go on after the end of text")
    group.add_argument("-n", type=int, default=1, help="number of answers")


def sampling_values(args: argparse.Namespace, defaults: dict[str, Any]) -> dict[str, Any]:
    """Fields of SamplingParams from parsed flags over the model's defaults. Raises RequestError."""
    values: dict[str, Any] = {"max_tokens": max(DEFAULT_MAX_TOKENS, args.min_tokens), **defaults}
    values.update(
        min_tokens=args.min_tokens,
        presence_penalty=args.presence_penalty,
        seed=args.sampling_seed,
        frequency_penalty=args.frequency_penalty,
        stop=args.stop,
        ignore_eos=args.ignore_eos,
        n=args.n,
    )
    for name in ("max_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty"):
        if getattr(args, name) is not None:
            values[name] = getattr(args, name)
    values["max_tokens"] = max_tokens_of(values["max_tokens"])
    return values


def max_tokens_of(number: int) -> int | None:
    """The cap that a user's number means: 0 is none. Raises: RequestError for a number below that."""
    if number < 0:
        raise RequestError(
            f"max_tokens={number} is not allowed",
            because="it is a number of tokens",
            hint="0 for an answer up to the end of the context",
            param="max_tokens",
        )
    return number or None


def params_from_args(args: argparse.Namespace, defaults: dict[str, Any]) -> Any:
    """SamplingParams of parsed flags over the model's defaults. Raises RequestError."""
    from quire.sampling_params import SamplingParams

    return SamplingParams(**sampling_values(args, defaults))
