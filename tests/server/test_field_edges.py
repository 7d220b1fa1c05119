"""Every field of every request at the edges of numbers and with its type swapped: an answer, or a 400 that names it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from quire.server.schemas import ChatCompletionRequest, CompletionRequest
from tests.serving import Server

BODIES: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "a", "max_tokens": 2, "temperature": 0, "stop": "d"},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "a"}], "max_tokens": 2, "temperature": 0},
}
MODELS = {"/v1/completions": CompletionRequest, "/v1/chat/completions": ChatCompletionRequest}
EDGES = [
    "2147483648", "9223372036854775808", "1" + "0" * 30, "-1" + "0" * 30, "1" + "0" * 100, "1e300", "1e-300",
    "1e40", "1e-40", "-0.0", "1.5", "true", '"5"', "[]", "{}", "[1e30]", '{"5": 1e-300}', '{"1e5": 1}', '[""]',
]  # fmt: skip


@pytest.fixture(scope="module")
def http(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60, headers={"Content-Type": "application/json"}) as client:
        yield client


@pytest.mark.parametrize(
    ("path", "name"), [(path, name) for path, model in MODELS.items() for name in model.model_fields]
)
def test_an_edge_is_answered_or_refused_by_name(http: httpx.Client, path: str, name: str) -> None:
    others = {field: value for field, value in BODIES[path].items() if field != name}
    if name == "max_completion_tokens":
        others["max_tokens"] = None
    for edge in EDGES:
        members = [f"{json.dumps(field)}: {json.dumps(value)}" for field, value in others.items()]
        response = http.post(path, content="{" + ", ".join([*members, f'"{name}": {edge}']) + "}")
        if response.status_code != 200:
            assert response.status_code in (400, 404), (edge, response.text)
            error = response.json()["error"]
            assert (error["param"] or "").startswith(name), (edge, error)
            assert len(response.content) < 2000
    after = http.post("/v1/completions", json={"prompt": "a", "max_tokens": 3, "temperature": 0})
    assert after.json()["choices"][0]["text"] == "bcd"


@pytest.mark.parametrize(
    "value", ["NaN", "1e999", "-Infinity", "9" * 400, '"\\ud83d"', '[1, {"a": NaN}]', '{"\\udc00": 1}']
)
def test_what_json_cannot_say_is_no_request(http: httpx.Client, value: str) -> None:
    for name in ("temperature", "user", "logit_bias"):
        response = http.post("/v1/completions", content=f'{{"prompt": "a", "{name}": {value}}}')
        assert response.status_code == 400
        assert response.json()["error"]["param"] == name, response.text
