"""A client that speaks HTTP by hand, for what no library would send."""

from __future__ import annotations

import json
import socket
from typing import Any

from tests.serving import Server


def connect(server: Server, timeout_s: float = 15.0) -> socket.socket:
    """An open connection."""
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout_s)


def post_head(length: int, path: str = "/v1/completions", *headers: str) -> bytes:
    """The head of a POST request."""
    lines = [f"POST {path} HTTP/1.1", "Host: a", f"Content-Length: {length}", *headers, "", ""]
    return "\r\n".join(lines).encode()


def read_all(client: socket.socket) -> bytes:
    """What comes until the server closes."""
    received = b""
    while piece := client.recv(1 << 16):
        received += piece
    return received


def error_of(answer: bytes) -> tuple[int, dict[str, Any]]:
    """Status and error object of a whole response."""
    head, _, body = answer.partition(b"\r\n\r\n")
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return int(head.split()[1]), error
