"""Clients that are slow, many, silent or do not speak HTTP: each ends by itself, in few words, and others go on."""

from __future__ import annotations

import contextlib
import json
import resource
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server.raw_client import connect, error_of, post_head, read_all
from tests.serving import Server, wait_for

HEAD = b"GET /health HTTP/1.1\r\nHost: a\r\n"
STREAM: dict[str, Any] = {"prompt": "a", "max_tokens": 1000, "ignore_eos": True, "stream": True}


@pytest.fixture(scope="module")
def strict_server(fake_flags: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Short times, few connections and requests, 2 ms a token."""
    flags = (
        "--fake-latency-ms",
        "2",
        "--header-timeout",
        "1",
        "--body-timeout",
        "1",
        "--keep-alive-timeout",
        "1",
        "--write-timeout",
        "1",
        "--max-connections",
        "20",
        "--max-requests",
        "3",
    )
    started = Server(*fake_flags, *flags, log=tmp_path_factory.mktemp("strict") / "log")
    try:
        yield started.wait_ready()
    finally:
        started.stop()


def test_a_slow_head(strict_server: Server) -> None:
    with connect(strict_server) as client, connect(strict_server) as silent:
        for byte in HEAD[:6]:
            client.sendall(bytes([byte]))
            time.sleep(0.05)
        status, error = error_of(read_all(client))
        assert (status, error["type"], error["code"]) == (408, "RequestTimeoutError", 408)
        assert read_all(silent) == b""


def test_a_slow_body(strict_server: Server) -> None:
    with connect(strict_server) as client:
        client.sendall(post_head(1000, "/v1/completions", "Connection: close") + b'{"prompt"')
        status, error = error_of(read_all(client))
    assert (status, error["type"]) == (408, "RequestTimeoutError")


def test_an_idle_connection_is_closed(strict_server: Server) -> None:
    with connect(strict_server) as client:
        client.sendall(HEAD + b"\r\n")
        assert read_all(client).startswith(b"HTTP/1.1 200 ")


def test_a_refused_body_may_not_go_on_for_ever(strict_server: Server) -> None:
    with connect(strict_server) as client:
        client.sendall(post_head(10**12))
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 413 ")
        start_s = time.monotonic()
        with contextlib.suppress(OSError):
            while time.monotonic() < start_s + 10:
                client.sendall(b"x" * 1000)
                time.sleep(0.01)
        assert time.monotonic() < start_s + 8


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100), 400),
        (b"GARBAGE\r\n\r\n", 400),
        (b"GET / HTTP\r\n\r\n", 400),
        (b"GET /v1/models HTTP/1.1\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (HEAD + b"X: " + b"x" * 100_000 + b"\r\n\r\n", 431),
        (HEAD + b"".join(b"X%d: y\r\n" % i for i in range(20_000)) + b"\r\n", 431),
        (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 431),
        (b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\n \r\n" * 3000, 400),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_what_is_not_http(strict_server: Server, sent: bytes, status: int) -> None:
    with connect(strict_server) as client:
        client.sendall(sent)
        answer = read_all(client)
    found, error = error_of(answer)
    assert (found, error["code"]) == (status, status)
    assert len(answer) < 1000


@pytest.mark.parametrize("path", ["/" + "a" * 10_000, "/v1/models/" + "m" * 10_000, "/v1/%00%0a%1b[31m"])
def test_paths_are_not_echoed_at_length(strict_server: Server, path: str) -> None:
    answer = httpx.get(strict_server.url + path)
    assert (answer.status_code, len(answer.content) < 8192) == (404, True)
    assert answer.json()["error"]["code"] == 404


def test_more_requests_than_there_is_room_for(strict_server: Server) -> None:
    with contextlib.ExitStack() as open_streams:
        for _ in range(3):
            client = open_streams.enter_context(connect(strict_server))
            body = json.dumps(STREAM).encode()
            client.sendall(post_head(len(body)) + body)
            client.recv(100)
        refused = strict_server.post("/v1/completions", {"prompt": "a"})
        assert (refused.status_code, refused.json()["error"]["type"]) == (503, "ServiceUnavailableError")
        assert int(refused.headers["Retry-After"]) >= 1
        assert httpx.get(f"{strict_server.url}/v1/models").status_code == 200
    wait_for(lambda: strict_server.post("/v1/completions", {"prompt": "a"}).status_code == 200, 20)
    strict_server.wait_idle()


def test_more_connections_than_there_is_room_for(strict_server: Server) -> None:
    with contextlib.ExitStack() as connections:
        for _ in range(20):
            client = connections.enter_context(connect(strict_server))
            client.sendall(b"G")
        refused = httpx.get(f"{strict_server.url}/v1/models")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, 503)
        assert "Retry-After" in refused.headers
        assert httpx.get(f"{strict_server.url}/health").status_code == 200
    wait_for(lambda: httpx.get(f"{strict_server.url}/v1/models").status_code == 200, 10)


def test_a_client_that_does_not_read_its_stream(strict_server: Server) -> None:
    body = json.dumps({**STREAM, "n": 64, "logprobs": 20}).encode()
    with connect(strict_server) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sendall(post_head(len(body)) + body)
        wait_for(lambda: "read nothing for" in strict_server.log.read_text(), 30)
    strict_server.wait_idle()
    assert "Traceback" not in strict_server.log.read_text()


def test_log_lines_are_short_and_of_one_line(strict_server: Server) -> None:
    httpx.get(strict_server.url + "/" + "p" * 5000 + "%0aINFO:%20forged%1b[31m")
    body = {"prompt": "a", "max_tokens": 1, "user": "u\nINFO: forged\x1b[31m" + "u" * 5000}
    assert strict_server.post("/v1/completions", body).status_code == 200
    lines = strict_server.log.read_text().split("\n")
    assert max(map(len, lines)) < 1500
    assert not any(line.startswith("INFO: forged") or "\x1b" in line for line in lines)


def test_a_signal_does_not_wait_for_stuck_clients(fake_flags: tuple[str, ...], tmp_path: Path) -> None:
    server = Server(*fake_flags, "--fake-latency-ms", "2", log=tmp_path / "log").wait_ready()
    body = json.dumps({**STREAM, "n": 64}).encode()
    with connect(server) as unread, connect(server) as half, connect(server) as silent:
        unread.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        unread.sendall(post_head(len(body)) + body)
        half.sendall(post_head(100) + b"{")
        silent.sendall(b"GET")
        time.sleep(2)
        start_s = time.monotonic()
        assert server.stop() == 128 + signal.SIGTERM
        assert time.monotonic() - start_s < 15
    assert "Traceback" not in server.log.read_text()


def test_without_descriptors_it_is_said_once_and_serving_resumes(fake_flags: tuple[str, ...], tmp_path: Path) -> None:
    server = Server(*fake_flags, log=tmp_path / "log").wait_ready()
    try:
        num_open = len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (num_open + 4, num_open + 4))
        with contextlib.ExitStack() as connections:
            for _ in range(40):
                connections.enter_context(connect(server)).sendall(b"G")
            wait_for(lambda: "no connection can be accepted" in server.log.read_text(), 10)
            time.sleep(1.5)
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (num_open + 4, num_open + 4))
        assert httpx.get(f"{server.url}/health", timeout=20).status_code == 200
        assert server.log.read_text().count("no connection can be accepted") < 10
    finally:
        server.stop()
