"""Two processes that start and end together, however either of them ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.serving import Server, is_running, wait_for

ENDLESS: dict[str, Any] = {"prompt": "a", "temperature": 0, "max_tokens": 1000, "ignore_eos": True}
PROMPT_S = 8.0
"""A generous idea of "promptly" on a busy machine; the answer that is cut short would take 20 s."""


@pytest.fixture
def start(
    fake_flags: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Server]]:
    """start(*flags): a server of the test's own, 20 ms a token, whose temporary files go to tmp_path/"tmp"."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    servers: list[Server] = []

    def start_one(*flags: str) -> Server:
        servers.append(Server(*fake_flags, "--fake-latency-ms", "20", *flags, log=tmp_path / "log"))
        return servers[-1]

    yield start_one
    for server in servers:
        server.process.kill()
        server.process.wait()


def open_stream(server: Server) -> tuple[httpx.Response, Iterator[str]]:
    """A stream that has begun; its client stays open with it."""
    client = httpx.Client(timeout=60)
    request = client.build_request("POST", f"{server.url}/v1/completions", json={**ENDLESS, "stream": True})
    response = client.send(request, stream=True)
    lines = response.iter_lines()
    assert '"text":"b"' in next(lines)
    return response, lines


def last_error(lines: Iterator[str]) -> dict[str, Any]:
    """The error before [DONE]."""
    events = [line for line in lines if line]
    assert events[-1] == "data: [DONE]"
    return json.loads(events[-2].removeprefix("data: "))["error"]  # type: ignore[no-any-return]


def test_an_engine_process_that_dies_is_replaced(start: Callable[..., Server], tmp_path: Path) -> None:
    server = start().wait_ready()
    for number, sent in ((1, signal.SIGKILL), (2, signal.SIGSEGV)):
        engine_pid = server.engine_pid()
        _, lines = open_stream(server)
        os.kill(engine_pid, sent)
        error = last_error(lines)
        assert (error["code"], "engine process ended" in error["message"]) == (503, True)
        refused = server.post("/v1/completions", ENDLESS)
        assert (refused.status_code, "is restarting" in refused.text) == (503, True)
        assert httpx.get(f"{server.url}/health").status_code == 503
        assert httpx.get(f"{server.url}/ping").status_code == 200  # the server itself lives
        wait_for(lambda: httpx.get(f"{server.url}/health").status_code == 200, 60)
        assert not is_running(engine_pid)
        assert server.engine_pid() != engine_pid
        assert server.post("/v1/completions", {**ENDLESS, "max_tokens": 3}).json()["choices"][0]["text"] == "bcd"
        (line,) = [line for line in server.log.read_text().splitlines() if f"(process {engine_pid}, " in line]
        assert f"signal {int(sent)} ({sent.name}" in line
        assert f"1 requests end with an error; restart {number} of at most 3 in 600 s begins" in line
        assert len(list((tmp_path / "tmp").glob("quire-*"))) <= 1  # of the process of now; elsewhere for a long path
    assert server.stop() == 128 + signal.SIGTERM
    assert list((tmp_path / "tmp").iterdir()) == []
    assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_ends_both_processes(start: Callable[..., Server], tmp_path: Path, number: signal.Signals) -> None:
    server = start().wait_ready()
    engine_pid = server.engine_pid()
    _, lines = open_stream(server)
    start_s = time.monotonic()
    os.killpg(server.process.pid, number)
    assert "shutting down" in last_error(lines)["message"]
    assert server.process.wait(30) == 128 + number
    assert time.monotonic() - start_s < PROMPT_S
    assert not is_running(engine_pid)
    assert list((tmp_path / "tmp").iterdir()) == []
    assert "Traceback" not in server.log.read_text()


def test_the_server_is_killed(start: Callable[..., Server], tmp_path: Path) -> None:
    server = start().wait_ready()
    engine_pid = server.engine_pid()
    open_stream(server)
    server.process.kill()
    server.process.wait()
    wait_for(lambda: not is_running(engine_pid), PROMPT_S)
    assert list((tmp_path / "tmp").iterdir()) == []


def test_the_server_is_killed_while_the_model_loads(start: Callable[..., Server], tmp_path: Path) -> None:
    server = start()
    engine_pid = server.engine_pid()
    server.process.kill()
    server.process.wait()
    wait_for(lambda: not is_running(engine_pid), PROMPT_S)
    wait_for(lambda: not list((tmp_path / "tmp").iterdir()), PROMPT_S)


def test_a_signal_while_the_model_loads(start: Callable[..., Server]) -> None:
    server = start()
    engine_pid = server.engine_pid()
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(30) == 128 + signal.SIGTERM
    assert not is_running(engine_pid)
    assert "Traceback" not in server.log.read_text()


def test_a_model_that_cannot_be_loaded_is_an_error_message(start: Callable[..., Server]) -> None:
    server = start("--fake-memory-blocks", "7")
    assert server.process.wait(60) == 2
    log = server.log.read_text()
    assert "error: out of memory: 2048 KV blocks\n  because: 7 fit\n  hint: " in log
    assert "Traceback" not in log


def test_a_port_in_use_is_an_error_message(fake_flags: tuple[str, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = taken.getsockname()
        command = [sys.executable, "-m", "quire.cli.main", "serve", *fake_flags, "--port", str(address[1])]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert (
        f"error: cannot listen on 127.0.0.1:{address[1]}\n  because: Address already in use\n  hint: " in ended.stderr
    )


def test_no_descriptors_are_an_error_message(fake_flags: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "quire.cli.main", "serve", *fake_flags, "--port", "0"]
    ended = subprocess.run(
        ["sh", "-c", 'ulimit -n 24; exec "$@"', "sh", *command], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 2, ended.stderr
    assert "error: the engine process cannot be started\n  because: Too many open files" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_engine_that_dies_too_often_ends_the_server(start: Callable[..., Server], tmp_path: Path) -> None:
    server = start("--max-engine-restarts", "0").wait_ready()
    _, lines = open_stream(server)
    os.kill(server.engine_pid(), signal.SIGSEGV)
    assert "engine process ended" in last_error(lines)["message"]
    assert server.process.wait(30) == 1
    assert "so it is gone for good" in server.log.read_text()
    assert "Traceback" not in server.log.read_text()
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_stopped_engine_ends_with_its_server(start: Callable[..., Server]) -> None:
    server = start().wait_ready()
    engine_pid = server.engine_pid()
    os.kill(engine_pid, signal.SIGSTOP)
    server.process.kill()
    server.process.wait()
    wait_for(lambda: not is_running(engine_pid), PROMPT_S)


def test_an_engine_in_a_step_that_never_comes_is_replaced(start: Callable[..., Server]) -> None:
    server = start(
        "--device-option", "faults=submit@4=hang", "--step-timeout", "1", "--health-timeout", "1"
    ).wait_ready()
    first = server.engine_pid()
    response = httpx.post(f"{server.url}/v1/completions", json={**ENDLESS, "max_tokens": 40}, timeout=60)
    assert response.status_code == 503
    assert "a step never came" in response.json()["error"]["message"]
    wait_for(lambda: httpx.get(f"{server.url}/health", timeout=60).status_code == 200, 60)
    assert server.engine_pid() != first
    short = {"prompt": "a", "temperature": 0, "max_tokens": 2, "ignore_eos": True}
    assert httpx.post(f"{server.url}/v1/completions", json=short, timeout=60).json()["choices"][0]["text"] == "bc"
