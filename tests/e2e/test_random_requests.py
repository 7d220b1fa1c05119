"""Random requests to a running server: fields at their edges, with other types, together. Nobody else notices."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quire.server.schemas import ChatCompletionRequest, CompletionRequest
from tests.serving import Server

WATCHED = {"model": "demo", "prompt": "The scheduler", "temperature": 0, "max_tokens": 40}
EDGES = [0, -1, 1, 2, 2**31 - 1, 2**31, 2**32 + 5, 2**63, -(2**63) - 1, 2**64, 10**30, 0.5, 1e-300, 1e300, -0.0, 1e-40]
TEXTS = ["", "a", "é🙂", "\ud800", "<|im_end|>", "{{ messages }}", "x" * 300, "\x00", "auto", "none"]

ANY = st.recursive(
    st.none() | st.booleans() | st.sampled_from(EDGES) | st.sampled_from(TEXTS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*TEXTS, "5"]), inner, max_size=3),
    max_leaves=5,
)
USUAL: dict[str, st.SearchStrategy[Any]] = {
    "n": st.integers(1, 4), "best_of": st.integers(1, 4), "temperature": st.floats(0, 2), "top_p": st.floats(0.01, 1),
    "top_k": st.integers(-1, 50), "min_p": st.floats(0, 1), "seed": st.integers(0, 2**64 - 1), "echo": st.booleans(),
    "stream": st.booleans(), "logprobs": st.integers(0, 5) | st.booleans(), "stop": st.sampled_from(["e", ["a", " "]]),
    "min_tokens": st.integers(0, 3), "logit_bias": st.dictionaries(st.sampled_from(["5", "9"]), st.floats(-100, 100)),
    "allowed_token_ids": st.lists(st.integers(0, 99), min_size=1), "bad_words": st.lists(st.just("the"), max_size=2),
    "prompt": st.sampled_from(["a", ["a", "b"], [5, 6], [[5], [6, 7]]]), "prompt_logprobs": st.integers(0, 3),
    "repetition_penalty": st.floats(0.5, 2), "presence_penalty": st.floats(-2, 2), "priority": st.integers(-9, 9),
    "ignore_eos": st.booleans(), "stream_options": st.just({"include_usage": True}), "top_logprobs": st.integers(0, 5),
}  # fmt: skip


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """(path, body): one to five fields, each at its usual values or at any."""
    path, model = draw(
        st.sampled_from([("/v1/completions", CompletionRequest), ("/v1/chat/completions", ChatCompletionRequest)])
    )
    body: dict[str, Any] = {"max_tokens": draw(st.integers(1, 6)), "model": "demo"}
    body |= {"prompt": "a"} if model is CompletionRequest else {"messages": [{"role": "user", "content": "a"}]}
    usual = sorted(USUAL.keys() & model.model_fields.keys())
    every = sorted({*model.model_fields, *model.foreign, "no_such_field"})
    names = st.sampled_from(usual) | st.sampled_from(every)
    for name in draw(st.lists(names, min_size=1, max_size=5, unique=True)):
        body[name] = draw(USUAL[name] if name in USUAL and draw(st.integers(0, 4)) else ANY)
    return path, body


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("random") / "log"
    started = Server("--scheduling-policy", "priority", "--max-model-len", "128", log=log)
    try:
        yield started.wait_ready()
    finally:
        started.stop()


@pytest.fixture(scope="module")
def http(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60, headers={"Content-Type": "application/json"}) as client:
        yield client


def streamed(http: httpx.Client) -> str:
    """The text of the watched stream."""
    text = ""
    with http.stream("POST", "/v1/completions", content=json.dumps({**WATCHED, "stream": True})) as response:
        for line in response.iter_lines():
            if line.startswith("data: {"):
                text += json.loads(line.removeprefix("data: "))["choices"][0]["text"]
    return text


@pytest.fixture(scope="module")
def watched(server: Server, http: httpx.Client) -> Iterator[list[str]]:
    """Texts of a stream that somebody else reads all the while; each is to be the first one."""
    texts = [streamed(http)]
    is_over = threading.Event()

    def read_on() -> None:
        with httpx.Client(base_url=server.url, timeout=60) as client:
            while not is_over.is_set():
                texts.append(streamed(client))

    reader = threading.Thread(target=read_on)
    reader.start()
    yield texts
    is_over.set()
    reader.join()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(request=requests())
def test_a_request_is_answered_or_refused_and_nobody_else_notices(
    server: Server, http: httpx.Client, watched: list[str], request: tuple[str, dict[str, Any]]
) -> None:
    path, body = request
    response = http.post(path, content=json.dumps(body))
    assert response.status_code < 500, response.text
    if response.status_code != 200:
        assert len(response.content) < 10_000
        assert response.json()["error"]["message"]
    assert server.process.poll() is None
    assert set(watched) == {watched[0]}


def test_the_engine_is_idle_and_was_never_started_again(server: Server, watched: list[str]) -> None:
    assert len(watched) > 2
    assert httpx.get(f"{server.url}/health", timeout=60).status_code == 200
    assert "Traceback" not in server.log.read_text()
