"""Quire beside peers on one checkpoint: in turns, same prompts, same threads, with the machine's limits each round."""

from __future__ import annotations

import argparse
import json
import platform
import time
from contextlib import ExitStack
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from typing import Any

from comparison.bar_chart import bar_chart
from comparison.contender import OURS, PEERS, Contender, Running
from comparison.markdown import markdown, refill
from comparison.result import Result
from comparison.rows import Row, process_rows, speed_rows

from quire.device.capabilities import MachineLimits
from quire.device.registry import LoadedBackend, resolve_device

REST_S = 0.3
"""Between two runs: threads that wait by spinning go to sleep by then."""


def parse_args() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="folder with config.json and safetensors")
    parser.add_argument("--peer", choices=sorted(PEERS), action="append", required=True, help="may be repeated")
    parser.add_argument("--python", action="append", required=True, help="interpreter that has the peer, one a --peer")
    parser.add_argument("--peer-formats", action="append", default=[], metavar="A,B", help="one a --peer")
    parser.add_argument("--peer-options", action="append", default=[], metavar="JSON", help="one a --peer")
    parser.add_argument("--formats", default="bfloat16", help="ours: dtypes, and schemes of --quantization")
    parser.add_argument("--options", default="{}", help="JSON, fields of our EngineConfig")
    parser.add_argument(
        "--device-option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        type=key_value,
        help="of our cpu device, whose limits are measured with it too; may be repeated",
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--decode-len", type=int, default=128)
    parser.add_argument("--prefill-len", type=int, default=512)
    parser.add_argument("--num-prompts", type=int, default=32, help="0 leaves the batched row out")
    parser.add_argument("--starts", type=int, default=0, help="fresh processes for the rows of start and memory")
    parser.add_argument("--scratch", type=Path, default=Path("/tmp/quire-compare"), help="converted checkpoints")
    parser.add_argument("--out", type=Path, help="writes OUT.md, OUT.json and OUT.svg")
    parser.add_argument("--refill", metavar="PAGE#MARK", help="puts the tables between a page's marks")
    args = parser.parse_args()
    if "device_options" in json.loads(args.options):
        parser.error("--options has device_options: give each as --device-option KEY=VALUE")
    for name in ("python", "peer_formats", "peer_options"):
        given = getattr(args, name)
        if given and len(given) != len(args.peer):
            parser.error(f"--{name.replace('_', '-')} is given {len(given)} times for {len(args.peer)} peers")
    return args


def key_value(pair: str) -> tuple[str, str]:
    """Of KEY=VALUE."""
    key, equals, value = pair.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"{pair!r} is not KEY=VALUE")
    return key, value


def contenders_of(args: argparse.Namespace) -> list[Contender]:
    """Ours, then each peer's formats."""
    ours = {**json.loads(args.options), "device_options": dict(args.device_option)}
    found = [Contender(OURS, name, options=ours) for name in args.formats.split(",")]
    for i, peer in enumerate(args.peer):
        formats = args.peer_formats[i].split(",") if args.peer_formats else PEERS[peer][1]
        options = json.loads(args.peer_options[i]) if args.peer_options else {}
        found += [Contender(peer, name, args.python[i], options) for name in formats]
    return found


class Comparison:
    """The contenders, and how a round of each kind is run."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.contenders = args, contenders_of(args)
        self.versions: dict[str, str] = {}
        self.limits: list[MachineLimits] = []
        device_options = {"threads": str(args.threads), **dict(args.device_option)}
        self._backend: LoadedBackend = resolve_device("cpu", device_options)

    def start(self, contender: Contender, **options: Any) -> Running:
        args = self.args
        contender = replace(contender, options={**contender.options, **options})
        return Running(contender, contender.words(args.checkpoint, args.threads, args.scratch))

    def process_results(self, rows: list[Row]) -> list[Result]:
        """Fresh processes in turns; the first of each only fills the page cache and converts the checkpoint: peers keep
        a converted file, we keep packed weights."""
        results = [Result(row, self.contenders) for row in rows]
        kept = {**dict(self.args.device_option), "packed_weights": str(self.args.scratch / "packed")}
        for number in range(self.args.starts + 1):
            values: list[dict[str, float]] = [{} for _ in rows]
            for contender in self.contenders:
                running = self.start(contender, **({"device_options": kept} if contender.name == OURS else {}))
                values[0][contender.label] = running.first_token_s(rows[0].workload.prompts[0])
                values[1][contender.label] = running.peak_mib()
                self.versions[contender.label] = running.version
                running.close()
            for result, figures in zip(results, values, strict=True):
                result.values += [figures] if number else []
                result.limits += [{}] if number else []
        return results

    def speed_results(self, rows: list[Row]) -> list[Result]:
        """One process a contender; every round runs each row with all of them in turns, limits measured before it."""
        results = [Result(row, self.contenders) for row in rows]
        with ExitStack() as stack:
            running = [self.start(contender) for contender in self.contenders]
            for one in running:
                stack.callback(one.close)
                one.run(rows[0].workload.prompts, 8)
                self.versions[one.contender.label] = one.version
            for number in range(self.args.rounds):
                order = running if number % 2 == 0 else running[::-1]
                for result in results:
                    self._run_row(result, order)
        return results

    def _run_row(self, result: Result, order: list[Running]) -> None:
        limits = self._backend.measure_limits()
        assert limits is not None
        self.limits.append(limits)
        row = result.row
        figures: dict[str, float] = {}
        bounds: dict[str, float] = {}
        for running in order:
            time.sleep(REST_S)
            answer, contender = running.run(row.workload.prompts, row.workload.output_len), running.contender
            figures[contender.label] = row.figure(answer)
            if contender.name == OURS and (bound := row.limit(answer, limits, contender.bits)) is not None:
                bounds[contender.label] = bound
        result.values.append(figures)
        result.limits.append(bounds)


def write(out: Path, title: str, text: str, comparison: Comparison, results: list[Result]) -> None:
    """OUT.md, OUT.json, OUT.svg."""
    written: dict[str, Any] = {
        "title": title,
        "args": {name: str(value) for name, value in vars(comparison.args).items()},
        "versions": comparison.versions,
        "machine_limits": [asdict(limits) for limits in comparison.limits],
        "results": [result.as_json() for result in results],
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
    out.with_suffix(".md").write_text(text, encoding="utf-8")
    out.with_suffix(".svg").write_text(bar_chart(title, results), encoding="utf-8")


def main() -> None:
    """Runs all rows, prints the tables, writes them where asked."""
    args = parse_args()
    comparison = Comparison(args)
    config = json.loads((args.checkpoint / "config.json").read_text(encoding="utf-8"))
    results = []
    if args.starts:
        results += comparison.process_results(process_rows(config["vocab_size"]))
    results = (
        comparison.speed_results(
            speed_rows(
                config["vocab_size"],
                decode_len=args.decode_len,
                prefill_len=args.prefill_len,
                num_prompts=args.num_prompts,
            )
        )
        + results
    )
    title = f"{args.checkpoint.resolve().name}, {args.threads} threads, {platform.machine()}, {date.today()}"
    versions = "".join(f"- {label}: {version}\n" for label, version in comparison.versions.items())
    rounds = "one round" if args.rounds == 1 else f"medians of {args.rounds} rounds"
    text = f"{title}; {rounds}\n\n{versions}\n{markdown(results)}"
    print(text)
    if args.out is not None:
        write(args.out, title, text, comparison, results)
    if args.refill is not None:
        page, _, mark = args.refill.partition("#")
        refill(Path(page), mark, text)


if __name__ == "__main__":
    main()
