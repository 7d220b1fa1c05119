"""Command-line flags of `SamplingParams`."""

from __future__ import annotations

import argparse
from typing import Any


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags. None = the model's generation_config.json, else the API's default."""
    group = parser.add_argument_group("sampling")
    group.add_argument("--max-tokens", type=int, default=None, help="most tokens to generate; default: up to the model's length")
    group.add_argument("--min-tokens", type=int, default=0)
    group.add_argument("--temperature", type=float, default=None, help="0 = greedy")
    group.add_argument("--top-k", type=int, default=None)
    group.add_argument("--top-p", type=float, default=None)
    group.add_argument("--min-p", type=float, default=None)
    group.add_argument("--presence-penalty", type=float, default=0.0)
    group.add_argument("--frequency-penalty", type=float, default=0.0)
    group.add_argument("--repetition-penalty", type=float, default=None)
    group.add_argument("--sampling-seed", type=int, default=None, help="seed of this request; default: from --seed")
    group.add_argument("--stop", action="append", default=[], help="stop string, may be repeated")
    group.add_argument("--ignore-eos", action="store_true")
    group.add_argument("-n", type=int, default=1, help="number of answers")


def params_from_args(args: argparse.Namespace, defaults: dict[str, Any]) -> Any:
    """SamplingParams of parsed flags over the model's defaults. Raises RequestError."""
    from quire.sampling_params import SamplingParams

    values: dict[str, Any] = {"max_tokens": None, **defaults}
    values.update(min_tokens=args.min_tokens, presence_penalty=args.presence_penalty, seed=args.sampling_seed,
                  frequency_penalty=args.frequency_penalty, stop=args.stop, ignore_eos=args.ignore_eos, n=args.n)
    for name in ("max_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty"):
        if getattr(args, name) is not None:
            values[name] = getattr(args, name)
    return SamplingParams(**values)
