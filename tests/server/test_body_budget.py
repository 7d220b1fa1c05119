"""Bodies that arrive at the same time share one budget of bytes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from quire.server.body_budget import BodyBudget
from quire.server.errors import HttpError
from tests.server.raw_client import connect, error_of, post_head, read_all
from tests.serving import Server


@pytest.fixture(scope="module")
def narrow_server(fake_flags: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    started = Server(*fake_flags, "--max-body-bytes", "1000", log=Path(tmp_path_factory.mktemp("narrow") / "log"))
    try:
        yield started.wait_ready()
    finally:
        started.stop()


def test_a_share_is_given_back() -> None:
    budget = BodyBudget(10)
    with budget.share() as first, budget.share() as second:
        first.take(316)
        second.take(4)
        with pytest.raises(HttpError) as refused:
            second.take(1)
        assert (refused.value.status, refused.value.retry_after_s) == (503, 1)
    with budget.share() as share:
        share.take(320)


def test_small_bodies_always_find_room() -> None:
    budget = BodyBudget(640)
    with budget.share() as large, budget.share() as small:
        large.take(10 + 32 * 640)
        small.take(4)
        small.take(6)
        with pytest.raises(HttpError):
            small.take(1)


def test_half_sent_bodies_do_not_fill_the_memory(narrow_server: Server) -> None:
    with contextlib.ExitStack() as connections:
        for _ in range(36):
            connections.enter_context(connect(narrow_server)).sendall(post_head(1000) + b'"' + b"x" * 890)
        time.sleep(0.3)
        last = connections.enter_context(connect(narrow_server))
        last.sendall(post_head(1000, "/v1/completions", "Connection: close") + b'"' + b"x" * 999)
        status, error = error_of(read_all(last))
        assert (status, error["type"]) == (503, "ServiceUnavailableError")
        assert narrow_server.post("/v1/completions", {}).status_code == 400  # small ones are still read
    time.sleep(0.3)
    assert narrow_server.post("/v1/completions", {"prompt": "a", "max_tokens": 1}).status_code == 200


def test_the_flag_sets_the_limit(narrow_server: Server) -> None:
    assert narrow_server.post("/v1/completions", {"prompt": "a" * 500, "max_tokens": 1}).status_code == 200
    refused = narrow_server.post("/v1/completions", {"prompt": "a" * 1000})
    assert (refused.status_code, "1000 bytes" in refused.text) == (413, True)
