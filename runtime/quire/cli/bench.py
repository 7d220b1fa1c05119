"""`quire bench`: latency, throughput, and the core's own overhead."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from quire.cli.engine_args import add_engine_arguments, config_from_args


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `quire bench latency|throughput|core`."""
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    latency = kinds.add_parser("latency", help="one request at a time")
    latency.add_argument("--input-len", type=int, default=512, help="prompt tokens")
    latency.add_argument("--output-len", type=int, default=128, help="generated tokens")
    throughput = kinds.add_parser("throughput", help="all requests at once")
    throughput.add_argument("--num-prompts", type=int, default=32)
    throughput.add_argument("--min-input-len", type=int, default=32, help="shortest prompt")
    throughput.add_argument("--input-len", type=int, default=256, help="longest prompt")
    throughput.add_argument("--output-len", type=int, default=64, help="generated tokens")
    for sub in (latency, throughput):
        sub.add_argument("--repeats", type=int, default=3, help="runs; the median counts")
        add_engine_arguments(sub, model_positional=True)
    core = kinds.add_parser("core", help="the core's cost per step, on the fake device")
    core.add_argument("--num-seqs", type=int, default=256, help="running sequences")
    core.add_argument("--steps", type=int, default=400, help="steps that are timed")
    for sub in (latency, throughput, core):
        sub.add_argument("--json", type=Path, metavar="FILE", help="also write the result as JSON; '-' = only that, to stdout")


def run(args: argparse.Namespace) -> int:
    """Prints the report, and writes JSON where asked."""
    if args.kind == "core":
        from quire.bench.core import core_lines, run_core_bench

        result = run_core_bench(num_seqs=args.num_seqs, num_steps=args.steps)
        lines = core_lines(result)
    else:
        from quire.bench import runs

        config = config_from_args(args)
        if args.kind == "latency":
            report = runs.run_latency(config, input_len=args.input_len, output_len=args.output_len, repeats=args.repeats)
        else:
            report = runs.run_throughput(config, num_prompts=args.num_prompts, min_input_len=args.min_input_len,
                                         input_len=args.input_len, output_len=args.output_len, repeats=args.repeats)
        result, lines = report.as_json(), report.lines()
    if args.json is not None and str(args.json) == "-":
        print(json.dumps(result, indent=2))
        return 0
    print("\n".join(lines))
    if args.json is not None:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0
