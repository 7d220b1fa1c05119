"""Bodies that are too large, too slow, or not what they should be: refused at once, in few words."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.serving import Server

PATHS = ("/v1/completions", "/v1/chat/completions")
JSON = {"Content-Type": "application/json"}
MAX_ERROR_BYTES = 8192


def refusal(response: httpx.Response, status: int = 400) -> str:
    """The message of an error in OpenAI's shape."""
    assert response.status_code == status, response.text[:500]
    assert len(response.content) < MAX_ERROR_BYTES
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == status
    return str(error["message"])


def post(server: Server, content: Any, path: str = PATHS[0], headers: dict[str, str] = JSON) -> httpx.Response:
    return httpx.post(f"{server.url}{path}", content=content, headers=headers, timeout=30)


@pytest.mark.parametrize("path", PATHS)
def test_above_the_limit_of_bytes(server: Server, path: str) -> None:
    content = json.dumps({"prompt": "a" * (10 << 20)}).encode()

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(content), 1 << 16):
            yield content[start : start + (1 << 16)]

    assert "too large" in refusal(post(server, content, path), 413)
    assert "too large" in refusal(post(server, pieces(), path), 413)  # chunked: no Content-Length


def test_a_length_alone_is_enough_to_refuse(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1])), timeout=10) as client:
        client.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n")
        answer = client.recv(1 << 16)
    assert answer.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 400),
        (b" \n ", 400),
        (b"null", 400),
        (b'{"prompt": "a", "temperature": NaN}', 400),
        (b'{"prompt": "a", "temperature": -Infinity}', 400),
        (b'{"prompt": "a", "temperature": 1e999}', 400),
        (b'{"prompt": "a", "seed": ' + b"7" * 5000 + b"}", 400),
        (b'{"prompt": "a", "seed": ' + b"7" * 60 + b"}", 400),
        (b'{"prompt": "\xff"}', 400),
        (b'{"prompt": "\\ud800"}', 400),
        (b'{"prompt": "a"} {"prompt": "b"}', 400),
        (b'{"prompt": "a",}', 400),
        (b'{"prompt": ' + b"[" * 100_000, 400),
        (b'{"prompt": ' + b'{"a":' * 1000 + b"1" + b"}" * 1001, 400),
        ('{"prompt": "a"}'.encode("utf-16"), 400),
        (b'\xef\xbb\xbf{"prompt": "a", "max_tokens": 1}', 200),
        (b'{"prompt": "a", "max_tokens": 9, "max_tokens": 1}', 200),  # the last one counts
    ],
    ids=lambda value: repr(value)[:30],
)
def test_odd_json(server: Server, content: bytes, status: int) -> None:
    response = post(server, content)
    if status == 200:
        assert response.json()["usage"]["completion_tokens"] == 1
    else:
        refusal(response, status)


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded", "a" * 3000])
def test_the_content_type_does_not_matter(server: Server, content_type: str | None) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    assert post(server, b'{"prompt": "a", "max_tokens": 1}', headers=headers).status_code == 200


def test_a_compressed_body_is_not_read(server: Server) -> None:
    assert "compressed" in refusal(post(server, b"\x1f\x8b", headers={"Content-Encoding": "gzip"}), 415)


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": "a", **{f"unknown_{i}": i for i in range(20_000)}},
        {"prompt": "a", "x" * 1_000_000: 1},
        {"prompt": "a", "n": "x" * 1_000_000},
        {"prompt": [1.5] * 100_000},
        {"prompt": [[1]] * 5000 + [["a"]]},
        {"prompt": "a", "stop": [1] * 100_000},
        {"prompt": "a", "stop_token_ids": [None] * 100_000},
        {"prompt": "a", "logit_bias": {str(i): "x" for i in range(10_000)}},
        {"prompt": "a", "logit_bias": {"x" * 100_000: 1}},
        {"prompt": "a", "model": "m" * 1_000_000},
        {"prompt": "a", "stream_options": {f"u{i}": i for i in range(10_000)}},
        {"prompt": "a", "service_tier": "x" * 1_000_000, "suffix": "s" * 1_000_000},
    ],
    ids=lambda value: str(value)[-30:],
)
def test_errors_stay_short(server: Server, body: dict[str, Any]) -> None:
    response = post(server, json.dumps(body))
    refusal(response, 404 if "model" in body else 400)


def test_problems_are_counted_beyond_the_first(server: Server) -> None:
    message = refusal(post(server, json.dumps({"prompt": "a", **{f"k{i}": 1 for i in range(1000)}})))
    assert "k0: unknown field" in message
    assert message.endswith("and 990 more")


def test_a_token_id_may_be_written_as_a_float(server: Server) -> None:
    answer = post(server, b'{"prompt": [97.0, 98], "max_tokens": 1, "temperature": 0}')
    assert answer.json()["usage"]["prompt_tokens"] == 2


def test_others_are_served_while_a_body_trickles_in(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1])), timeout=10) as client:
        client.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 32\r\n\r\n")
        client.sendall(b'{"prompt": "a", ')
        time.sleep(0.2)
        assert httpx.get(f"{server.url}/health").status_code == 200
        client.sendall(b'"max_tokens": 1}')
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
