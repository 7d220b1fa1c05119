"""A scripted run in which processes are killed, stopped and interrupted, and the disk is full, at any moment.

What is lost is named to those who lost it; everything else goes on; the log stays short.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.serving import Server, is_running, wait_for

NUM_CLIENTS = 6
NUM_KILLS = 3
ANSWER_TOKENS = 120
LATENCY_MS = 4
LOG_LINES_PER_START = 12
"""Of each engine process: what it loaded, what it settled, how it ended. The lines of requests come on top: as many as
a machine is fast enough to answer requests."""

REQUEST_LINE = re.compile(r'"(GET|POST) /|: \d+ prompt tokens')

START_S = 60.0


@pytest.fixture
def start(
    fake_flags: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Server]]:
    """start(*flags, log=): a server on the fake device whose temporary files go to tmp_path/"tmp"."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    servers: list[Server] = []

    def start_one(*flags: str, log: Path = tmp_path / "log") -> Server:
        servers.append(Server(*fake_flags, "--fake-latency-ms", str(LATENCY_MS), *flags, log=log))
        return servers[-1]

    yield start_one
    for server in servers:
        server.process.kill()
        server.process.wait()


class Client:
    """Streams answer after answer until it is told to stop; remembers whole answers and named losses."""

    def __init__(self, server: Server, expected: str) -> None:
        self._url, self._expected = server.url, expected
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.whole = 0
        self.losses: list[str] = []
        self.wrong: list[str] = []
        self._thread.start()

    def finish(self) -> None:
        """Returns when the answer in flight has ended."""
        self._stop.set()
        self._thread.join(START_S)
        assert not self._thread.is_alive(), "a client hangs"

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._ask()
            except httpx.HTTPError as error:
                self.wrong.append(repr(error))
                return

    def _ask(self) -> None:
        status, text, error = stream(self._url)
        if error is None and status == 200:
            self.whole += 1
            if text != self._expected:
                self.wrong.append(text)
        elif status in (200, 503) and error is not None and "engine" in error["message"]:
            self.losses.append(error["message"])
            if not self._expected.startswith(text):
                self.wrong.append(f"before the loss: {text}")
            time.sleep(0.05)  # as a client that tries again
        else:
            self.wrong.append(f"{status} {text} {error}")


def stream(url: str) -> tuple[int, str, dict[str, Any] | None]:
    """(status, text so far, the error that ended it)."""
    body = {"prompt": "a", "temperature": 0, "max_tokens": ANSWER_TOKENS, "ignore_eos": True, "stream": True}
    text = ""
    with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=START_S) as response:
        if response.status_code != 200:
            return response.status_code, "", json.loads(response.read())["error"]
        for line in response.iter_lines():
            if line.startswith("data: {"):
                event = json.loads(line.removeprefix("data: "))
                if "error" in event:
                    return 200, text, event["error"]
                text += event["choices"][0]["text"]
    return 200, text, None


def health(server: Server) -> int:
    return httpx.get(f"{server.url}/health", timeout=START_S).status_code


def run_clients(server: Server, disaster: Callable[[], None]) -> list[Client]:
    """The disaster while the clients stream; each has had a whole answer before, and one after it."""
    _, expected, error = stream(server.url)
    assert error is None
    clients = [Client(server, expected) for _ in range(NUM_CLIENTS)]
    try:
        wait_for(lambda: all(client.whole for client in clients), START_S)
        disaster()
        seen = [client.whole for client in clients]
        wait_for(lambda: all(client.whole > before for client, before in zip(clients, seen, strict=True)), START_S)
    finally:
        for client in clients:
            client.finish()
    return clients


def test_the_engine_is_killed_again_and_again(start: Callable[..., Server], tmp_path: Path) -> None:
    server = start("--max-engine-restarts", str(NUM_KILLS)).wait_ready()
    dice = random.Random(1)
    killed: list[int] = []

    def disaster() -> None:
        for _ in range(NUM_KILLS):
            time.sleep(dice.uniform(0.0, 0.3))
            killed.append(server.engine_pid())
            os.kill(killed[-1], signal.SIGKILL)
            wait_for(lambda: health(server) == 503, START_S)
            wait_for(lambda: health(server) == 200, START_S)

    clients = run_clients(server, disaster)
    assert [client.wrong for client in clients] == [[]] * NUM_CLIENTS
    assert sum(len(client.losses) for client in clients) >= NUM_KILLS
    server.wait_idle()
    assert server.metrics()["quire_engine_restarts_total"] == NUM_KILLS
    assert not any(map(is_running, killed))
    lines = server.log.read_text().splitlines()
    others = [line for line in lines if not REQUEST_LINE.search(line)]
    assert len(others) <= (1 + NUM_KILLS) * LOG_LINES_PER_START, others
    assert sum("SIGKILL" in line for line in lines) == NUM_KILLS, "one line says what died"
    assert server.stop() == 128 + signal.SIGTERM
    assert list((tmp_path / "tmp").iterdir()) == []


def test_after_too_many_deaths_the_server_ends_and_says_so(start: Callable[..., Server]) -> None:
    server = start("--max-engine-restarts", "1").wait_ready()
    os.kill(server.engine_pid(), signal.SIGKILL)
    wait_for(lambda: health(server) == 503, START_S)
    wait_for(lambda: health(server) == 200, START_S)
    os.kill(server.engine_pid(), signal.SIGKILL)
    assert server.process.wait(START_S) not in (0, None)
    assert "Traceback" not in server.log.read_text()


def test_an_operator_may_want_the_exit_at_once(start: Callable[..., Server]) -> None:
    server = start("--on-engine-death", "exit").wait_ready()
    os.kill(server.engine_pid(), signal.SIGKILL)
    assert server.process.wait(START_S) not in (0, None)


def test_the_engine_is_stopped_and_goes_on(start: Callable[..., Server]) -> None:
    server = start("--health-timeout", "1").wait_ready()

    def disaster() -> None:
        pid = server.engine_pid()
        os.kill(pid, signal.SIGSTOP)
        try:
            start_s = time.monotonic()
            wait_for(lambda: health(server) == 503, START_S)
            assert time.monotonic() - start_s < 5
            answer = httpx.get(f"{server.url}/metrics", timeout=5)
            assert answer.status_code == 200
        finally:
            os.kill(pid, signal.SIGCONT)
        wait_for(lambda: health(server) == 200, START_S)

    clients = run_clients(server, disaster)
    assert [client.wrong for client in clients] == [[]] * NUM_CLIENTS, "what was running goes on untouched"
    assert not any("ended" in loss for client in clients for loss in client.losses)
    server.wait_idle()


@pytest.mark.parametrize("delay_s", [0.3, 0.5, 0.8, 1.6])  # before, it is the interpreter that starts
def test_an_interrupt_at_any_moment_of_the_start(start: Callable[..., Server], tmp_path: Path, delay_s: float) -> None:
    server = start()
    time.sleep(delay_s)
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(30) in (130, -signal.SIGINT)
    assert "Traceback" not in server.log.read_text()
    wait_for(lambda: not children_of_this_run(tmp_path), START_S)


def children_of_this_run(tmp_path: Path) -> list[str]:
    """Processes whose TMPDIR is this test's."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes()
            command = (folder / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if str(tmp_path / "tmp").encode() in environment and "quire" in command and int(folder.name) != os.getpid():
            found.append(command)
    return found


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder of a file system without room, not even for one byte more."""
    folder = tmp_path / "full"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    try:
        with (folder / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(b"\0" * 4096):
                pass
        assert os.statvfs(folder).f_bfree == 0
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_the_disk_is_full(start: Callable[..., Server], full_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be written (temporary files, caches) is named or not needed; answers come all the same."""
    monkeypatch.setenv("TMPDIR", str(full_disk))
    monkeypatch.setenv("XDG_CACHE_HOME", str(full_disk / "cache"))
    server = start().wait_ready()
    assert stream(server.url)[2] is None
    os.kill(server.engine_pid(), signal.SIGKILL)  # a new engine needs no room either
    wait_for(lambda: health(server) == 503, START_S)
    wait_for(lambda: health(server) == 200, START_S)
    assert stream(server.url)[2] is None
    assert server.stop() == 128 + signal.SIGTERM
    assert "Traceback" not in server.log.read_text()


def test_a_log_that_cannot_be_written_ends_nothing(start: Callable[..., Server]) -> None:
    """/dev/full in the place of the log: every line is lost, and nothing else."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = start("--log-level", "debug", "--port", str(port), log=Path("/dev/full"))
    server.url = f"http://127.0.0.1:{port}"
    wait_for(lambda: answers(server.url), START_S)
    assert stream(server.url)[2] is None
    assert server.stop() == 128 + signal.SIGTERM


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False
