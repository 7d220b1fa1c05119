"""`cached_tokens` tells a client nothing about what other clients sent, unless the server shares its cache."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from quire.server.cache_scope import CacheScope
from tests.serving import Server

SECRET = "the password of the database is hunter2, and it is long enough for blocks. " * 2


@pytest.fixture(scope="module")
def keyed_server(fake_flags: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("keys")
    (folder / "keys").write_text("# two clients\nalice\n\n  bob  \n")
    (folder / "keys").chmod(0o600)
    started = Server(*fake_flags, "--api-key-file", str(folder / "keys"), log=folder / "log", api_key="alice")
    try:
        yield started.wait_ready()
    finally:
        started.stop()


def num_cached(server: Server, prompt: str, key: str, salt: str | None = None) -> int:
    server.api_key = key
    body = {"prompt": prompt, "max_tokens": 1, "cache_salt": salt}
    usage = server.post("/v1/completions", body).raise_for_status().json()["usage"]
    return int(usage["prompt_tokens_details"]["cached_tokens"])


def test_a_guess_is_not_confirmed_across_keys(keyed_server: Server) -> None:
    assert num_cached(keyed_server, SECRET, "alice") == 0
    assert num_cached(keyed_server, SECRET, "bob") == 0
    wrong = SECRET.replace("hunter2", "hunter3")
    assert num_cached(keyed_server, wrong, "bob") < num_cached(keyed_server, SECRET, "bob")  # its own it may see
    assert num_cached(keyed_server, SECRET, "alice") > 0


def test_the_requests_own_salt_still_counts(keyed_server: Server) -> None:
    prompt = "salted " * 20
    assert num_cached(keyed_server, prompt, "alice", "s") == 0
    assert num_cached(keyed_server, prompt, "alice") == 0
    assert num_cached(keyed_server, prompt, "bob", "s") == 0
    assert num_cached(keyed_server, prompt, "alice", "s") > 0


@pytest.mark.parametrize(("scope", "is_shared"), [("global", True), ("request", False)])
def test_scopes_without_keys(fake_flags: tuple[str, ...], tmp_path: Path, scope: str, is_shared: bool) -> None:
    server = Server(*fake_flags, "--prefix-cache-scope", scope, log=tmp_path / "log").wait_ready()
    try:
        assert num_cached(server, SECRET, "none") == 0
        assert (num_cached(server, SECRET, "none") > 0) == is_shared
    finally:
        server.stop()


def test_salts() -> None:
    assert CacheScope(None, 0).scope == CacheScope(None, 1).scope == "global"
    assert CacheScope(None, 2).scope == "key"
    assert CacheScope("global", 2).salt(b"a", "own") == "own"
    scope = CacheScope("key", 2)
    salts = [scope.salt(client, own) for client, own in itertools.product((b"a", b"b", None), ("s", "t", None))]
    assert len(set(salts)) == len(salts)
    assert scope.salt(b"a", "s") == salts[0]
    assert CacheScope("key", 2).salt(b"a", "s") != salts[0]  # another process, other salts
    assert CacheScope("request", 0).salt(None, None) != CacheScope("request", 0).salt(None, None)
