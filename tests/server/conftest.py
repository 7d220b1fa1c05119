"""One server on the fake device per session: the answer to "a" is "bcdef...", 2 ms a token."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import OpenAI

from tests.serving import Server


@pytest.fixture(scope="session")
def fake_flags(byte_model: Path) -> tuple[str, ...]:
    """Flags of a server on the fake device, with few enough blocks to see them come and go."""
    return (
        str(byte_model),
        "--device",
        "fake",
        "--load-format",
        "dummy",
        "--num-kv-blocks",
        "2048",
        "--served-model-name",
        "bytes",
        "alias",
    )


@pytest.fixture(scope="session")
def server(fake_flags: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Shared by all tests; each leaves it idle."""
    started = Server(*fake_flags, "--fake-latency-ms", "2", log=tmp_path_factory.mktemp("server") / "log")
    try:
        yield started.wait_ready()
    finally:
        started.stop()


@pytest.fixture(scope="session")
def client(server: Server) -> Iterator[OpenAI]:
    with server.client() as opened:
        yield opened
