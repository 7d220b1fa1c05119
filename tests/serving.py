"""A `quire serve` in a process of its own, for tests."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import httpx
from openai import AsyncOpenAI, OpenAI

START_TIMEOUT_S = 90.0

T = TypeVar("T")


class Server:
    """Started on a free loopback port; what it writes goes to `log`."""

    def __init__(self, *flags: str, log: Path, api_key: str = "none") -> None:
        self.log, self.api_key = log, api_key
        command = [sys.executable, "-m", "quire.cli.entry", "serve", "--port", "0", *flags]
        with log.open("wb") as sink:
            # a group of its own, as a shell gives it, so that a test can send what Ctrl-C sends
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, process_group=0
            )
        self.url = ""

    def wait_ready(self) -> Server:
        """Waits until it listens."""

        def address() -> str | None:
            assert self.process.poll() is None, f"the server ended:\n{self.log.read_text()}"
            found = re.search(r"serving on (http://\S+)", self.log.read_text())
            return found[1] if found else None

        self.url = wait_for(address, START_TIMEOUT_S)
        return self

    def client(self) -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key=self.api_key, max_retries=0, timeout=60)

    def async_client(self) -> AsyncOpenAI:
        return AsyncOpenAI(base_url=f"{self.url}/v1", api_key=self.api_key, max_retries=0, timeout=60)

    def post(self, path: str, body: object, **options: object) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.api_key}"}
        return httpx.post(f"{self.url}{path}", json=body, headers=headers, timeout=60, **options)  # type: ignore[arg-type]

    def metrics(self) -> dict[str, float]:
        """Samples of /metrics by name, without labels."""
        text = httpx.get(f"{self.url}/metrics", timeout=60).raise_for_status().text
        rows = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
        return {name.split("{")[0]: float(value) for name, value in rows}

    def wait_idle(self, timeout_s: float = 20.0) -> None:
        """Waits until nothing runs or waits and every block is free."""

        def is_idle() -> bool:
            metrics = self.metrics()
            busy = ("quire_num_requests_running", "quire_num_requests_waiting", "quire_kv_blocks_used")
            return (
                all(metrics[name] == 0 for name in busy)
                and metrics["quire_kv_blocks_free"] == metrics["quire_kv_blocks_total"]
            )

        wait_for(is_idle, timeout_s)

    def engine_pid(self) -> int:
        """Process id of the engine process, one of its children; waits a little for one that is about to start."""
        command = ["pgrep", "-P", str(self.process.pid), "-f", "quire.engine.process"]

        def engine() -> str:
            return subprocess.run(command, capture_output=True, text=True, check=False).stdout

        (pid,) = wait_for(engine, 20).split()
        return int(pid)

    def stop(self) -> int:
        """SIGTERM, and what the process returned."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


def wait_for(condition: Callable[[], T | None], timeout_s: float) -> T:
    """The first true value of `condition`."""
    end_s = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < end_s, f"not so within {timeout_s} s: {condition.__name__}"
        time.sleep(0.02)
    return value


def is_running(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(state.strip()) and not state.startswith("Z")
