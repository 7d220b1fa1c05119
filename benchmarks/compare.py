"""Quire beside a peer on one checkpoint: in turns, same prompts, same threads, with the machine's limits each round."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

import quire
from quire.bench.runs import decode_bound, prefill_bound, run_once
from quire.bench.workload import Workload, random_workload
from quire.device.registry import resolve_device
from quire.engine.config import EngineConfig
from quire.engine.llm_engine import LLMEngine

PEERS = {"transformers": "transformers_peer.py"}


@dataclass(frozen=True)
class Task:
    """One row of the table: what is asked for, and how its figure follows from the two times."""

    name: str
    unit: str
    workload: Workload

    def figure(self, first_s: float, total_s: float) -> float:
        if self.name.startswith("prefill"):
            return self.workload.num_prompt_tokens / first_s
        if self.name.startswith("decode"):
            return (self.workload.output_len - 1) / (total_s - first_s)
        return len(self.workload.prompts) * self.workload.output_len / total_s


class Peer:
    """The peer's process."""

    def __init__(self, python: str, script: Path, arguments: list[str]) -> None:
        self._process = subprocess.Popen(
            [python, str(script), *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.version = self._answer()["ready"]

    def run(self, workload: Workload) -> tuple[float, float]:
        """(first token, total) in seconds."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"prompts": workload.prompts, "output_len": workload.output_len}) + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        return answer["first_s"], answer["total_s"]

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> dict[str, object] | dict[str, float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("the peer ended; its own messages are above")
        return json.loads(line)


def tasks_of(vocab_size: int, args: argparse.Namespace) -> list[Task]:
    """The rows."""

    def load(num: int, low: int, high: int, out: int) -> Workload:
        return random_workload(
            num_prompts=num, min_input_len=low, input_len=high, output_len=out, vocab_size=vocab_size, seed=7
        )

    rows = [
        Task(f"decode, 1 stream, {args.decode_len} tokens after 32", "tokens/s", load(1, 32, 32, args.decode_len)),
        Task(f"prefill, {args.prefill_len} tokens", "tokens/s", load(1, args.prefill_len, args.prefill_len, 2)),
    ]
    if args.num_prompts:
        rows.append(
            Task(f"{args.num_prompts} requests of 32-256, 64 out", "tokens/s", load(args.num_prompts, 32, 256, 64))
        )
    return rows


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint")
    parser.add_argument("--peer", choices=sorted(PEERS), required=True)
    parser.add_argument("--python", required=True, help="interpreter of the environment that has the peer")
    parser.add_argument("--peer-dtype", default="float32")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--decode-len", type=int, default=64)
    parser.add_argument("--prefill-len", type=int, default=512)
    parser.add_argument("--num-prompts", type=int, default=32, help="0 leaves the batched row out")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    options = {"threads": str(args.threads)}
    engine = LLMEngine(
        EngineConfig(
            model=args.checkpoint,
            device="cpu",
            device_options=options,
            dtype=args.dtype,
            max_model_len=2048,
            skip_tokenizer_init=True,
            enable_prefix_caching=False,
        )
    )
    peer = Peer(
        args.python,
        Path(__file__).parent / "peers" / PEERS[args.peer],
        [args.checkpoint, args.peer_dtype, str(args.threads)],
    )
    backend = resolve_device("cpu", options)
    tasks = tasks_of(engine.loaded.limits.vocab_size, args)
    rows: dict[str, list[dict[str, float]]] = {task.name: [] for task in tasks}
    try:
        run_once(engine, tasks[0].workload)
        peer.run(tasks[0].workload)
        for _ in range(args.rounds):
            for task in tasks:
                limit = backend.measure_limits()
                assert limit is not None
                ours, theirs = task.figure(*run_once(engine, task.workload)), task.figure(*peer.run(task.workload))
                row = {"quire": ours, "peer": theirs, "ratio": ours / theirs}
                if task.name.startswith("decode"):
                    row["limit"] = decode_bound(engine, 32 + args.decode_len // 2, limit)
                elif task.name.startswith("prefill"):
                    row["limit"] = prefill_bound(engine, args.prefill_len, limit)
                rows[task.name].append(row)
    finally:
        peer.close()
        engine.close()
    medians = {
        name: {key: statistics.median(row[key] for row in values) for key in values[0]} for name, values in rows.items()
    }
    title = f"quire {quire.__version__} ({args.dtype}) beside {peer.version}"
    print(f"{title}; {args.threads} threads, medians of {args.rounds} rounds, {date.today()}, {platform.machine()}\n")
    print("| | quire | limit | share of limit | peer | quire / peer |\n|---|---:|---:|---:|---:|---:|")
    for name, row in medians.items():
        limit_text = f"{row['limit']:.1f} | {row['quire'] / row['limit']:.0%}" if "limit" in row else "- | -"
        print(f"| {name} | {row['quire']:.1f} | {limit_text} | {row['peer']:.1f} | {row['ratio']:.2f} |")
    if args.json is not None:
        result = {"title": title, "args": {**vars(args), "json": str(args.json)}, "medians": medians, "rounds": rows}
        result["tasks"] = [asdict(task)["name"] for task in tasks]
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
