"""`quire bench`: latency, throughput, the start of a process, and the core's own overhead."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from quire.cli.engine_args import add_engine_arguments, config_from_args
from quire.cli.help_format import HelpFormatter
from quire.cli.result_file import require_writable, write_result

if TYPE_CHECKING:
    from quire.bench.report import Report

CORE_BUDGET_MS = 1.0
"""What the core may cost per step with up to 256 running sequences; more with more of them."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `quire bench latency|throughput|startup|core`."""
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)

    def add_kind(name: str, text: str) -> argparse.ArgumentParser:
        return kinds.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            allow_abbrev=False,
            formatter_class=HelpFormatter,
        )

    latency = add_kind("latency", "one request at a time")
    latency.add_argument("--input-len", type=_count(1), default=512, help="prompt tokens")
    latency.add_argument("--output-len", type=_count(2), default=128, help="generated tokens")
    throughput = add_kind("throughput", "all requests at once")
    throughput.add_argument("--num-prompts", type=_count(1), default=32, help="requests")
    throughput.add_argument("--min-input-len", type=_count(1), default=32, help="tokens of the shortest prompt")
    throughput.add_argument("--input-len", type=_count(1), default=256, help="tokens of the longest prompt")
    throughput.add_argument("--output-len", type=_count(1), default=64, help="generated tokens")
    startup = add_kind("startup", "from the start of a process to its first token, and its memory")
    startup.add_argument("--input-len", type=_count(1), default=32, help="prompt tokens")
    for sub in (latency, throughput, startup):
        sub.add_argument("--repeats", type=_count(1), default=3, help="runs; the median counts")
        add_engine_arguments(sub, model_positional=True)
    core = add_kind("core", "the core's cost per step, on the fake device")
    core.add_argument("--num-seqs", type=_count(1), default=256, help="running sequences")
    core.add_argument("--steps", type=_count(2), default=400, help="steps that are timed")
    for sub in (latency, throughput, startup, core):
        sub.add_argument(
            "--json", type=Path, metavar="FILE", help="also write the result as JSON; '-' = only that, to stdout"
        )


def run(args: argparse.Namespace) -> int:
    """Prints the report, and writes JSON where asked."""
    require_writable(args.json, "--json")
    report = _report(args)
    text = json.dumps(report.as_json(), indent=2)
    if args.json is not None and str(args.json) == "-":
        print(text)
        return 0
    print("\n".join(report.lines()))
    if args.json is not None:
        write_result(args.json, text + "\n", "--json")
    return 0


def _report(args: argparse.Namespace) -> Report:
    if args.kind == "core":
        return _core_report(args.num_seqs, args.steps)
    config = config_from_args(args)
    if args.kind == "startup":
        from quire.bench.startup import run_startup

        return run_startup(config, input_len=args.input_len, repeats=args.repeats)
    from quire.bench import runs

    if args.kind == "latency":
        return runs.run_latency(config, input_len=args.input_len, output_len=args.output_len, repeats=args.repeats)
    return runs.run_throughput(
        config,
        num_prompts=args.num_prompts,
        min_input_len=min(args.min_input_len, args.input_len),
        input_len=args.input_len,
        output_len=args.output_len,
        repeats=args.repeats,
    )


def _core_report(num_seqs: int, num_steps: int) -> Report:
    from quire.bench.core import run_core_bench
    from quire.bench.report import Figure, Report

    result = run_core_bench(num_seqs, num_steps=num_steps)
    budget_ms = CORE_BUDGET_MS * max(1.0, num_seqs / 256)
    figures = [
        Figure(name, result.pop(key) * 1e3, "ms", budget_ms)
        for name, key in (
            ("median step", "median_s"),
            ("90 % of steps within", "p90_s"),
            ("fastest step", "min_s"),
            ("median step, processor time", "cpu_median_s"),
        )
    ]
    return Report(
        "the core's own cost per step (limit: its budget, 1 ms for up to 256 sequences)", result, figures, None
    )


def _count(least: int) -> type[int]:
    """An argparse type: whole numbers from `least`."""

    def count(text: str) -> int:
        number = int(text)
        if number < least:
            raise ValueError
        return number

    count.__name__ = f"whole number of at least {least}"
    return count  # type: ignore[return-value]
