"""Who is compared: an engine in a number format, and its running process (peers/protocol.py tells what is said)."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).parents[1] / "peers"
OURS = "quire"
PEERS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "llama-cpp": ("llama_cpp_peer.py", ("BF16", "F16", "Q8_0", "Q4_0")),
    "transformers": ("transformers_peer.py", ("float32",)),
    "vllm": ("vllm_peer.py", ("bfloat16", "float32")),
}
"""Peer -> its script, and the formats it is run in unless others are asked for."""


@dataclass(frozen=True)
class Contender:
    """One engine in one format.

    Attributes:
        name: "quire" or a peer's. format: as that engine calls it. python: interpreter that has it.
        options: for its script, see there.
    """

    name: str
    format: str
    python: str = sys.executable
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        return f"{self.name} {self.format}"

    @property
    def bits(self) -> int:
        """Bits of a weight, scales not counted: 16 of "BF16", 4 of "Q4_K_M" and of "int4_g32"."""
        match = re.search(r"\d+", self.format)
        if match is None:
            raise SystemExit(f"format {self.format!r} does not tell its bits")
        return int(match[0])

    def words(self, checkpoint: Path, threads: int, scratch: Path) -> list[str]:
        """The command line of its process."""
        script = "quire_side.py" if self.name == OURS else PEERS[self.name][0]
        options = json.dumps(dict(self.options))
        return [self.python, str(SCRIPTS / script), str(checkpoint), self.format, str(threads), str(scratch), options]


class Running:
    """A contender's process."""

    def __init__(self, contender: Contender, words: list[str]) -> None:
        self.contender = contender
        self._start_s = time.perf_counter()
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.version = ""

    def run(self, prompts: tuple[tuple[int, ...], ...], output_len: int) -> dict[str, float]:
        """One request line, one answer; the first waits until the engine is loaded."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"prompts": prompts, "output_len": output_len}) + "\n")
        self._process.stdin.flush()
        if not self.version:
            self.version = self._line()["ready"]
        return self._line()

    def first_token_s(self, prompt: tuple[int, ...]) -> float:
        """Seconds from the start of the process to the first token of its first request."""
        self.run((prompt,), 1)
        return time.perf_counter() - self._start_s

    def peak_mib(self) -> float:
        """Peak resident memory of the process and its children, each at its own time; Linux only."""
        return sum(_peak_kib(process_id) for process_id in _tree(self._process.pid)) / 1024

    def close(self) -> None:
        """Ends it; waits for the end."""
        assert self._process.stdin is not None
        if self._process.poll() is None:
            self._process.stdin.close()
        self._process.wait()

    def _line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):  # engines print notices of their own
                return json.loads(line)
        raise SystemExit(f"{self.contender.label} ended; its own messages are above")


def _peak_kib(process_id: int) -> int:
    status = Path(f"/proc/{process_id}/status").read_text(encoding="ascii", errors="replace")
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM:")).split()[1])


def _tree(process_id: int) -> list[int]:
    """The process and all that came from it."""
    found = [process_id]
    for children in Path(f"/proc/{process_id}/task").glob("*/children"):
        for child in children.read_text(encoding="ascii").split():
            found += _tree(int(child))
    return found
