"""Drives workers through mutations, each told by a seed and a number, and collects what must not happen.

python -m tests.mutation.runner --seconds 600 --seed 7
"""

from __future__ import annotations

import argparse
import json
import random
import selectors
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.mutation.mutations import copy_of, mutate
from tests.mutation.seeds import make_seeds

DEADLINE_S = 60.0
"""For one checkpoint, whose load takes a tenth of a second: a machine may be busy."""

WITHOUT_WEIGHTS = ("config-", "tokenizer-")
"""Beginnings of the names of seeds that have none and are loaded with random ones."""

DEVICES = ("cpu", "cpu", "reference")


@dataclass
class Findings:
    """How often each outcome came, and the inputs that ended in one that must not."""

    outcomes: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    bad: list[str] = field(default_factory=list)


class Worker:
    """A worker process that is started when it is needed, and anew when it has ended."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def ask(self, job: dict[str, str]) -> dict[str, str]:
        """The worker's answer; "hung" past the deadline, "died" when its process ended."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(Path(__file__).with_name("worker.py"))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                bufsize=1,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(job), file=self._process.stdin, flush=True)
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            ready = selector.select(DEADLINE_S)
        line = self._process.stdout.readline() if ready else ""
        if line:
            answer: dict[str, str] = json.loads(line)
            return answer
        if ready:
            return {"outcome": "died", "error": f"exit code {self._end()}"}
        self._end()
        return {"outcome": "hung", "error": f"no answer in {DEADLINE_S:.0f} s"}

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._end()

    def _end(self) -> int:
        assert self._process is not None
        process, self._process = self._process, None
        if process.poll() is None:
            process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        return process.wait()


def run(
    folder: Path, seed: int, *, seconds: float, first: int = 0, most: int | None = None, only: str = ""
) -> Findings:
    """Mutations `first`, `first` + 1 ... of a seed until the time is over.

    Args:
        folder: empty, to work in.
        most: so many of them at most. only: those of checkpoints with this in their names.
    """
    seeds = {name: path for name, path in make_seeds(folder / "seeds").items() if only in name}
    findings, worker, end_s = Findings(), Worker(), time.monotonic() + seconds
    number = first
    try:
        while time.monotonic() < end_s and (most is None or number < first + most):
            chance = random.Random(f"{seed}.{number}")
            name = chance.choice(sorted(seeds))
            words = f"{seed}.{number} {name}: {mutate(copy_of(seeds[name], folder / 'damaged'), chance)}"
            job = {
                "folder": str(folder / "damaged"),
                "device": chance.choice(DEVICES),
                "load_format": "dummy" if name.startswith(WITHOUT_WEIGHTS) else "auto",
            }
            answer = worker.ask(job)
            findings.outcomes[answer["outcome"]] += 1
            if answer["outcome"] == "refused":
                findings.errors[answer["error"].partition(":")[0]] += 1
            elif answer["outcome"] != "ran":
                findings.bad.append(f"{words}\n    {job['device']}: {answer['outcome']}: {answer['error']}")
            number += 1
    finally:
        worker.close()
    return findings


def main() -> int:
    """The command: prints what it finds; exit status 1 where there is something."""
    parser = argparse.ArgumentParser(description="damaged checkpoints: an error of Quire's own, or a run")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first mutation, to see one again")
    parser.add_argument("--most", type=int, help="so many mutations at most")
    parser.add_argument("--only", default="", help="checkpoints with this in their names")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        findings = run(
            Path(folder), given.seed, seconds=given.seconds, first=given.first, most=given.most, only=given.only
        )
    print(*findings.bad, sep="\n")
    print(f"{sum(findings.outcomes.values())} mutations: {dict(findings.outcomes)}, {dict(findings.errors)}")
    return 1 if findings.bad else 0


if __name__ == "__main__":
    sys.exit(main())
