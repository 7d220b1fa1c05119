"""Clients that leave at any moment: their requests end, nothing alarming is logged, and others go on."""

from __future__ import annotations

import json
import socket
import struct
import time
from typing import Any

import pytest

from tests.server.raw_client import connect, post_head
from tests.serving import Server, wait_for

BODY: dict[str, Any] = {"prompt": ["a", "b"], "n": 2, "max_tokens": 1000, "ignore_eos": True}


@pytest.mark.parametrize("is_abrupt", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 1.0])
def test_a_client_that_leaves(server: Server, share: float, stream: bool, is_abrupt: bool) -> None:
    log_bytes = len(server.log.read_bytes())
    body = json.dumps({**BODY, "stream": stream}).encode()
    request = post_head(len(body)) + body
    with connect(server) as client:
        if is_abrupt:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.sendall(request[: int(share * len(request))])
        if share == 1.0 and stream:
            assert client.recv(100)
        elif share == 1.0:
            wait_for(lambda: server.metrics()["quire_num_requests_running"] > 0, 10)
        else:
            time.sleep(0.05)
    server.wait_idle()
    assert server.post("/v1/completions", {"prompt": "a", "max_tokens": 1}).status_code == 200
    log = server.log.read_bytes()[log_bytes:].decode()
    assert not any(word in log for word in ("Traceback", "ERROR", "WARNING")), log
