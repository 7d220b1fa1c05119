"""Others are served while a client sends the largest and the oddest bodies that it can."""

from __future__ import annotations

import json
import statistics
import threading
import time
from itertools import pairwise

import httpx
import pytest

from tests.serving import Server

MEDIAN_S, MOST_S = 0.05, 0.3
"""The median is the promise; the 95th percentile leaves room for a busy machine."""

BODIES = {
    "10 MB prompt": b'{"prompt": "' + b"a" * 10_000_000 + b'"}',
    "4 MB prompt": b'{"prompt": "' + b"a " * 2_000_000 + b'"}',
    "deep": b'{"prompt": ' + b"[" * 4_000_000,
    "a million ints": b'{"prompt": [' + b"12," * 1_000_000 + b"1]}",
    "as many ints as are parsed": b'{"prompt": [' + b"12," * 130_000 + b"1]}",
    "as many wrong items": b'{"prompt": [' + b"1.5," * 130_000 + b"1]}",
    "unknown keys": b'{"prompt": "a",' + b",".join(b'"k%d": 1' % i for i in range(100_000)) + b"}",
    "fewer unknown keys": b'{"prompt": "a",' + b",".join(b'"k%d": 1' % i for i in range(30_000)) + b"}",
    "objects": b'{"prompt": [' + b"{}," * 16_000 + b"1]}",
    "long number": b'{"prompt": "a", "seed": ' + b"7" * 4_000_000 + b"}",
    "escapes": b'{"prompt": "a", "model": "' + b"\\n" * 1_000_000 + b'"}',
}


@pytest.mark.parametrize("name", BODIES)
def test_health_and_streams_go_on(server: Server, name: str) -> None:
    answers: list[httpx.Response] = []
    stop = threading.Event()

    def send() -> None:
        while not stop.is_set():
            answers.append(httpx.post(f"{server.url}/v1/completions", content=BODIES[name], timeout=30))

    sender = threading.Thread(target=send)
    waits_s, times_s = [], []
    with httpx.Client(timeout=30) as client:
        body = {"prompt": "a", "max_tokens": 250, "ignore_eos": True, "stream": True}
        with client.stream("POST", f"{server.url}/v1/completions", json=body) as stream, httpx.Client() as other:
            sender.start()
            for _ in stream.iter_raw():
                times_s.append(time.monotonic())
                other.get(f"{server.url}/health").raise_for_status()
                waits_s.append(time.monotonic() - times_s[-1])
        stop.set()
        sender.join()
    gaps_s = [after - before for before, after in pairwise(times_s)]
    for measured_s in (waits_s, gaps_s):
        assert statistics.median(measured_s) < MEDIAN_S
        assert statistics.quantiles(measured_s, n=20)[-1] < MOST_S
    assert answers
    for answer in answers:
        assert 400 <= answer.status_code < 500
        assert len(answer.content) < 8192
        assert set(json.loads(answer.content)) == {"error"}
