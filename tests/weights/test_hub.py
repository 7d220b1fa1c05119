from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from huggingface_hub import constants

from quire.errors import ModelError
from quire.weights.hub import resolve_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"
MODEL = "someone/tiny-model"
FILES = {
    "config.json": b'{"model_type": "qwen3"}',
    "model.safetensors": bytes(range(256)) * 40,
    "tokenizer.json": b"{}",
    "tokenizer.model": b"pieces",
    "chat_template.jinja": b"{{ messages }}",
    "merges.txt": b"a b",
    "pytorch_model.bin": b"pickle",
    "consolidated.safetensors": b"second copy",
    "original/params.json": b"{}",
    "README.md": b"words",
    "tiny-Q4_K_M.gguf": b"four bits",
    "tiny-Q4_K_S.gguf": b"fewer",
    "tiny-Q8_0.gguf": b"eight bits",
    "mmproj-tiny-Q8_0.gguf": b"images",
    "F16/tiny-F16-00001-of-00002.gguf": b"first",
    "F16/tiny-F16-00002-of-00002.gguf": b"second",
}
WANTED = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer.model", "chat_template.jinja", "merges.txt"}


class Hub(BaseHTTPRequestHandler):
    """The hub's routes that a download needs, for one model; other names give the hub's own errors."""

    protocol_version = "HTTP/1.1"
    requests: list[tuple[str, str, str]]  # (method, path, authorization), set per server

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        path = urlsplit(self.path).path
        self.requests.append((self.command, path, self.headers.get("Authorization", "")))
        if "someone/gated" in path:
            self.send(403, b"gated", {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"})
        elif "someone/broken" in path:
            self.send(400, b"broken", {})
        elif MODEL not in path:
            self.send(401, b"no", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        elif "/revision/" in path and path.rsplit("/", 1)[1] not in ("main", "v1", COMMIT):
            self.send(404, b"no", {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"})
        elif path.startswith(f"/api/models/{MODEL}/revision/"):
            siblings = [{"rfilename": name} for name in FILES]
            self.send(
                200,
                json.dumps({"id": MODEL, "modelId": MODEL, "sha": COMMIT, "siblings": siblings}).encode(),
                {"Content-Type": "application/json"},
            )
        elif path.startswith(f"/api/models/{MODEL}/tree/"):
            tree = [
                {"type": "file", "path": name, "size": len(content), "oid": etag(content)}
                for name, content in FILES.items()
            ]
            self.send(200, json.dumps(tree).encode(), {"Content-Type": "application/json"})
        elif path.startswith(f"/{MODEL}/resolve/"):
            self.send_file(path.removeprefix(f"/{MODEL}/resolve/").split("/", 1)[1])
        else:
            self.send(404, b"no", {})

    def send_file(self, name: str) -> None:
        content = FILES[name]
        headers = {"ETag": f'"{etag(content)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        wanted = self.headers.get("Range")
        if wanted is None:
            self.send(200, content, headers)
            return
        start, end = wanted.removeprefix("bytes=").split("-")
        last = min(int(end or len(content) - 1), len(content) - 1)
        headers["Content-Range"] = f"bytes {start}-{last}/{len(content)}"
        self.send(206, content[int(start) : last + 1], headers)

    def send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


def etag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


class RunningHub:
    def __init__(self) -> None:
        self.requests: list[tuple[str, str, str]] = []
        handler = type("Handler", (Hub,), {"requests": self.requests})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def downloaded(self) -> set[str]:
        return {path.split("/", 5)[-1] for method, path, _ in self.requests if method == "GET" and "/resolve/" in path}


@pytest.fixture
def running_hub() -> Iterator[RunningHub]:
    running = RunningHub()
    thread = threading.Thread(target=running.server.serve_forever, args=(0.01,))
    thread.start()
    yield running
    running.server.shutdown()
    running.server.server_close()
    thread.join()


@pytest.fixture
def hub(running_hub: RunningHub, monkeypatch: pytest.MonkeyPatch) -> RunningHub:
    """A hub that this process's client talks to, as if HF_ENDPOINT had named it."""
    monkeypatch.setattr(constants, "ENDPOINT", running_hub.url)
    template = running_hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return running_hub


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("revision", [None, "v1", COMMIT])
def test_downloads_what_is_needed_and_nothing_else(hub: RunningHub, tmp_path: Path, revision: str | None) -> None:
    folder = resolve_model(MODEL, revision=revision, cache_dir=tmp_path)
    assert files_in(folder) == WANTED
    assert all((folder / name).read_bytes() == FILES[name] for name in WANTED)
    assert hub.downloaded() == WANTED


def test_a_second_time_nothing_is_downloaded(hub: RunningHub, tmp_path: Path) -> None:
    first = resolve_model(MODEL, cache_dir=tmp_path)
    hub.requests.clear()
    assert resolve_model(MODEL, cache_dir=tmp_path) == first
    assert hub.downloaded() == set()


def test_the_cache_serves_when_offline(hub: RunningHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = resolve_model(MODEL, cache_dir=tmp_path)
    hub.requests.clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert resolve_model(MODEL, cache_dir=tmp_path) == first
    with pytest.raises(ModelError, match="not in the hub's cache") as caught:
        resolve_model("someone/another", cache_dir=tmp_path)
    assert "HF_HUB_OFFLINE" in caught.value.because
    assert hub.requests == []


def test_an_unreachable_hub_is_named(hub: RunningHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = resolve_model(MODEL, cache_dir=tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    assert resolve_model(MODEL, cache_dir=tmp_path) == first
    with pytest.raises(ModelError, match="cannot be reached") as caught:
        resolve_model("someone/another", cache_dir=tmp_path)
    assert "http://127.0.0.1:1" in caught.value.because


@pytest.mark.parametrize(
    ("model", "what", "advice"),
    [
        ("someone/gated", "gated", "HF_TOKEN"),
        ("someone/missing", "no model someone/missing", "spelling"),
        ("someone/broken", "HTTP 400", "folder"),
    ],
)
def test_refusals_say_what_to_try(hub: RunningHub, tmp_path: Path, model: str, what: str, advice: str) -> None:
    with pytest.raises(ModelError) as caught:
        resolve_model(model, cache_dir=tmp_path)
    assert what in caught.value.what
    assert advice in caught.value.hint


def test_an_unknown_revision_is_named(hub: RunningHub, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no revision 'nowhere'"):
        resolve_model(MODEL, revision="nowhere", cache_dir=tmp_path)


def test_the_environment_is_honoured(running_hub: RunningHub, tmp_path: Path) -> None:
    """HF_ENDPOINT, HF_TOKEN, HF_HOME and HF_HUB_OFFLINE, as a user sets them: before the process starts."""
    code = f"from quire.weights.hub import resolve_model; print(resolve_model({MODEL!r}))"
    names = ("HF_", "TRANSFORMERS_", "HUGGING")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(names)}
    environment |= {
        "HF_ENDPOINT": running_hub.url,
        "HF_TOKEN": "hf_secret",
        "HF_HOME": str(tmp_path),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }

    def run(**more: str) -> str:
        done = subprocess.run([sys.executable, "-c", code], env=environment | more, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip().splitlines()[-1]

    first = run()
    assert Path(first).is_relative_to(tmp_path)
    assert any(authorization == "Bearer hf_secret" for _, _, authorization in running_hub.requests)
    running_hub.requests.clear()
    assert run(HF_HUB_OFFLINE="1", HF_TOKEN="") == first
    assert running_hub.requests == []


@pytest.mark.parametrize(
    ("name", "file", "downloaded"),
    [
        (f"{MODEL}:Q4_K_M", "tiny-Q4_K_M.gguf", {"tiny-Q4_K_M.gguf"}),
        (f"{MODEL}:q4_k_s", "tiny-Q4_K_S.gguf", {"tiny-Q4_K_S.gguf"}),
        (f"{MODEL}:Q8_0", "tiny-Q8_0.gguf", {"tiny-Q8_0.gguf"}),
        (
            f"{MODEL}:F16",
            "F16/tiny-F16-00001-of-00002.gguf",
            {"F16/tiny-F16-00001-of-00002.gguf", "F16/tiny-F16-00002-of-00002.gguf"},
        ),
        (f"{MODEL}/tiny-Q8_0.gguf", "tiny-Q8_0.gguf", {"tiny-Q8_0.gguf"}),
        (
            f"{MODEL}/F16/tiny-F16-00001-of-00002.gguf",
            "F16/tiny-F16-00001-of-00002.gguf",
            {"F16/tiny-F16-00001-of-00002.gguf", "F16/tiny-F16-00002-of-00002.gguf"},
        ),
    ],
)
def test_one_gguf_file_of_a_repository(
    hub: RunningHub, tmp_path: Path, name: str, file: str, downloaded: set[str]
) -> None:
    path = resolve_model(name, cache_dir=tmp_path)
    assert path.read_bytes() == FILES[file]
    assert hub.downloaded() == downloaded


@pytest.mark.parametrize("name", [f"{MODEL}:Q2_K", f"{MODEL}/other.gguf"])
def test_a_gguf_file_that_a_repository_does_not_have(hub: RunningHub, tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError, match=f"{MODEL} has no GGUF file"):
        resolve_model(name, cache_dir=tmp_path)


def test_a_repository_of_gguf_files_asks_for_a_choice(
    hub: RunningHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("config.json", "model.safetensors"):
        monkeypatch.delitem(FILES, name)
    with pytest.raises(ModelError, match=r"neither config\.json nor") as caught:
        resolve_model(MODEL, cache_dir=tmp_path)
    assert f"{MODEL}:Q4_K_M" in caught.value.hint


def test_a_gguf_file_and_a_folder_with_one(tmp_path: Path) -> None:
    first = tmp_path / "tiny-Q8_0-00001-of-00002.gguf"
    for path in (first, tmp_path / "tiny-Q8_0-00002-of-00002.gguf", tmp_path / "mmproj-tiny.gguf"):
        path.write_bytes(b"")
    assert resolve_model(str(first)) == first
    assert resolve_model(str(tmp_path)) == first
    with pytest.raises(ModelError, match="revision"):
        resolve_model(str(first), revision="main")
    (tmp_path / "tiny-Q4_0.gguf").write_bytes(b"")
    with pytest.raises(ModelError, match="has 2 GGUF models") as caught:
        resolve_model(str(tmp_path))
    assert "tiny-Q4_0.gguf, tiny-Q8_0-00001-of-00002.gguf" in caught.value.hint
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert resolve_model(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("model", ["missing.gguf", "some/missing.gguf", "/some/missing.gguf", "./a/b/missing.gguf"])
def test_a_gguf_file_that_is_not_there(model: str) -> None:
    with pytest.raises(ModelError, match="no file"):
        resolve_model(model)


def test_folders_are_used_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_model(str(tmp_path)) == tmp_path
    (tmp_path / "someone").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve_model("someone") == Path("someone")
    with pytest.raises(ModelError, match="revision"):
        resolve_model(str(tmp_path), revision="main")


def test_demo_is_the_built_in_model() -> None:
    from quire.demo import demo_model_path

    assert resolve_model("demo") == demo_model_path()
    with pytest.raises(ModelError, match="revision 'v1' of the demo model"):
        resolve_model("demo", revision="v1")


@pytest.mark.parametrize("model", ["", "./missing", "/missing/folder", "a/b/c", "-x", "a b"])
def test_neither_folder_nor_id(model: str) -> None:
    with pytest.raises(ModelError, match="no model"):
        resolve_model(model)


def test_a_file_is_not_a_model(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    with pytest.raises(ModelError, match="is a file") as caught:
        resolve_model(str(file))
    assert str(tmp_path) in caught.value.hint
