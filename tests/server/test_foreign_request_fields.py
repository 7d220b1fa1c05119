"""Fields of OpenAI's and vLLM's that Quire does not have: each does what its row of the table says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import pytest

from quire.foreign_fields import ForeignField
from quire.server.foreign_request_fields import CHAT_FOREIGN, COMPLETION_FOREIGN, STREAM_OPTIONS_FOREIGN
from quire.server.schemas import ChatCompletionRequest, CompletionRequest
from tests.serving import Server

BODIES: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "a", "max_tokens": 2, "temperature": 0},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "a"}], "max_tokens": 2, "temperature": 0},
}
TABLES: dict[str, Mapping[str, ForeignField]] = {
    "/v1/completions": COMPLETION_FOREIGN,
    "/v1/chat/completions": CHAT_FOREIGN,
}
ROWS = [(path, name) for path, table in TABLES.items() for name in table]


@pytest.fixture(scope="module")
def http(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


def text_of(http: httpx.Client, path: str, **fields: Any) -> str:
    response = http.post(path, json={**BODIES[path], **fields})
    assert response.status_code == 200, response.text
    (choice,) = response.json()["choices"]
    text: str = choice["text"] if "text" in choice else choice["message"]["content"]
    return text


@pytest.mark.parametrize(("path", "name"), ROWS)
def test_a_field_is_taken_or_refused_as_its_row_says(server: Server, http: httpx.Client, path: str, name: str) -> None:
    spec, plain = TABLES[path][name], text_of(http, path)
    for neutral in (None, *spec.neutral):
        assert text_of(http, path, **{name: neutral}) == plain
    if spec.kind == "ignored":
        for _ in range(2):
            assert text_of(http, path, **{name: spec.example}) == plain
        assert server.log.read_text().count(f"{name} of a request is taken and has no effect") == 1
        return
    response = http.post(path, json={**BODIES[path], name: spec.example})
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == name
    assert name in error["message"]
    assert spec.reason in error["message"]


def test_stream_options_have_a_field_without_effect(server: Server) -> None:
    for name, spec in STREAM_OPTIONS_FOREIGN.items():
        body = {**BODIES["/v1/completions"], "stream": True, "stream_options": {name: spec.example}}
        assert server.post("/v1/completions", body).status_code == 200
        assert server.log.read_text().count(f"{name} of a request is taken and has no effect") == 1


@pytest.mark.parametrize("model", [CompletionRequest, ChatCompletionRequest])
def test_no_field_of_ours_is_in_the_table(model: Any) -> None:
    assert not set(model.model_fields) & set(model.foreign)
