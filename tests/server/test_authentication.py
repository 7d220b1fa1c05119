"""API keys, and a server with so few blocks that requests wait or are refused by the engine itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.server.raw_client import connect, error_of, read_all
from tests.serving import Server, wait_for

KEY = "a key with ümlauts"
BODY: dict[str, Any] = {"prompt": "a", "temperature": 0, "max_tokens": 100, "ignore_eos": True}
LONG = "a" * 100


@pytest.fixture(scope="module")
def small_server(byte_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """8 blocks of 16 tokens, 10 ms a token, two keys."""
    flags = (
        str(byte_model),
        "--device",
        "fake",
        "--load-format",
        "dummy",
        "--num-gpu-blocks-override",
        "8",
        "--fake-latency-ms",
        "10",
        "--api-key",
        "another",
        "--api-key",
        KEY,
    )
    started = Server(*flags, log=tmp_path_factory.mktemp("small") / "log", api_key="another")
    try:
        yield started.wait_ready()
    finally:
        started.stop()


def test_without_a_key_only_the_service_routes_answer(small_server: Server) -> None:
    for path in ("/health", "/ping", "/version", "/metrics"):
        assert httpx.get(small_server.url + path).status_code == 200
    for header in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Basic another"},
        {"Authorization": "another"},
    ):
        response = httpx.get(f"{small_server.url}/v1/models", headers=header)
        assert (response.status_code, response.json()["error"]["type"]) == (401, "AuthenticationError")
    with (
        openai.OpenAI(base_url=f"{small_server.url}/v1", api_key="no", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.completions.create(model="x", prompt="a")


def test_each_key_opens(small_server: Server) -> None:
    for key in (b"another", KEY.encode()):
        headers = {b"Authorization": b"Bearer " + key}
        assert httpx.get(f"{small_server.url}/v1/models", headers=headers).status_code == 200


def test_no_path_leads_around_the_key(small_server: Server) -> None:
    for path in (
        "//v1/models",
        "/v1/models/",
        "/health/../v1/models",
        "/v1/../health",
        "/HEALTH",
        "/health/",
        "/unknown",
        "/%76%31/models",
        "/health%2f..%2fv1%2fmodels",
        "/docs",
        "/openapi.json",
    ):
        with connect(small_server) as client:
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
            assert error_of(read_all(client))[0] == 401, path
    assert httpx.get(f"{small_server.url}/%68ealth").status_code == 200  # the same path, in another spelling


@pytest.mark.parametrize(
    "value", [b"Bearer", b"Bearer \xff\xfe", b"Bearer another, another", b"\xfcber x", b"Bearer " + b"x" * 20_000]
)
def test_odd_headers_are_no_keys(small_server: Server, value: bytes) -> None:
    response = httpx.get(f"{small_server.url}/v1/models", headers={b"Authorization": value})
    assert (response.status_code, response.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert len(response.content) < 1000


def test_keys_are_not_logged(small_server: Server) -> None:
    assert small_server.post("/v1/completions", {"prompt": "a", "max_tokens": 1}).status_code == 200
    log = small_server.log.read_text()
    assert KEY not in log
    assert "another" not in log


def test_what_never_fits_is_refused_and_its_fellows_end(small_server: Server) -> None:
    response = small_server.post("/v1/completions", {**BODY, "prompt": ["a", LONG]})
    assert response.status_code == 400
    assert (response.json()["error"]["param"], "13 KV blocks" in response.text) == ("max_tokens", True)
    small_server.wait_idle()
    assert small_server.metrics()["quire_generation_tokens_total"] < 90


def test_what_never_fits_ends_a_stream_with_an_error(small_server: Server) -> None:
    lines = small_server.post("/v1/completions", {**BODY, "prompt": LONG, "stream": True}).text.split("\n\n")
    assert '"code":400' in lines[-3]
    assert lines[-2:] == ["data: [DONE]", ""]
    with small_server.client() as client, pytest.raises(openai.APIError, match="KV blocks"):
        list(client.completions.create(model=client.models.list().data[0].id, prompt=LONG, max_tokens=100, stream=True))


def test_what_does_not_fit_now_waits(small_server: Server) -> None:
    with httpx.stream(
        "POST",
        f"{small_server.url}/v1/completions",
        timeout=60,
        headers={"Authorization": "Bearer another"},
        json={**BODY, "prompt": [LONG[:50], LONG[:60]], "max_tokens": 60, "stream": True},
    ) as response:
        lines = response.iter_lines()
        next(lines)
        metrics = small_server.metrics()
        assert (metrics["quire_num_requests_running"], metrics["quire_num_requests_waiting"]) in ((2, 0), (1, 1))
        wait_for(lambda: small_server.metrics()["quire_num_requests_waiting"] == 1, 10)
        text = "".join(lines)
    assert text.count('"finish_reason":"length"') == 2
    small_server.wait_idle()
