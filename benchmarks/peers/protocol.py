"""What compare.py and the process of one engine say to each other: a JSON object a line.

Engine, once it can run: {"ready": "name and versions"}. Then for every request line
{"prompts": [[ids]], "output_len": n} one answer {"first_s": seconds to the first token of all, "total_s": seconds},
greedy, end of text ignored, all prompts at once; other keys of an answer are handed on.
Command line of an engine: CHECKPOINT FORMAT THREADS SCRATCH_FOLDER OPTIONS (a JSON object).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Arguments:
    """The command line."""

    checkpoint: Path
    format: str
    threads: int
    scratch: Path
    options: dict[str, Any]

    @staticmethod
    def parse() -> Arguments:
        checkpoint, number_format, threads, scratch, options = sys.argv[1:]
        return Arguments(Path(checkpoint), number_format, int(threads), Path(scratch), json.loads(options))


def serve(ready: str, run: Callable[[list[list[int]], int], dict[str, float]]) -> None:
    """Answers requests on standard input until it ends."""
    print(json.dumps({"ready": ready}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(run(request["prompts"], request["output_len"])), flush=True)
