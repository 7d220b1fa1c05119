"""/metrics and /health while the engine is stopped, gone, or gone for good."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import httpx
import pytest

from tests.serving import Server, wait_for


def samples(server: Server) -> dict[str, float]:
    """Samples by name and labels."""
    text = httpx.get(f"{server.url}/metrics", timeout=10).raise_for_status().text
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#")}


def test_answers_are_counted_by_status(server: Server) -> None:
    name = 'quire_http_responses_total{model_name="bytes",status="%d"}'
    before = samples(server)
    server.post("/v1/completions", {"prompt": "a", "max_tokens": 1})
    server.post("/v1/completions", {"prompt": "a", "n": "x"})
    httpx.get(f"{server.url}/nowhere")
    after = samples(server)
    for status in (200, 400, 404):
        assert after[name % status] > before.get(name % status, 0)
    assert after['quire_engine_up{model_name="bytes"}'] == 1


def test_a_stopped_engine_and_a_server_without_one(fake_flags: tuple[str, ...], tmp_path: Path) -> None:
    flags = ("--health-timeout", "1", "--on-engine-death", "exit")
    server = Server(*fake_flags, *flags, log=tmp_path / "log").wait_ready()
    try:
        engine_pid = server.engine_pid()
        server.post("/v1/completions", {"prompt": "a", "max_tokens": 3, "ignore_eos": True})
        assert samples(server)['quire_generation_tokens_total{model_name="bytes"}'] == 3
        os.kill(engine_pid, signal.SIGSTOP)
        wait_for(lambda: httpx.get(f"{server.url}/health").status_code == 503, 15)
        error = httpx.get(f"{server.url}/health").json()["error"]
        assert (error["code"], error["type"]) == (503, "ServiceUnavailableError")
        start_s = time.monotonic()
        stopped = samples(server)
        assert time.monotonic() - start_s < 1
        assert stopped['quire_engine_up{model_name="bytes"}'] == 0
        assert stopped['quire_generation_tokens_total{model_name="bytes"}'] == 3  # the last known figure
        os.kill(engine_pid, signal.SIGCONT)
        wait_for(lambda: httpx.get(f"{server.url}/health").status_code == 200, 15)
        assert samples(server)['quire_engine_up{model_name="bytes"}'] == 1
        os.kill(engine_pid, signal.SIGKILL)
        assert server.process.wait(20) == 1
        log = server.log.read_text()
        assert log.count("the server ends, since its engine has") == 1
        assert "Traceback" not in log
    finally:
        server.process.kill()
        server.process.wait()


@pytest.mark.parametrize("flags", [("--max-engine-restarts", "-1"), ("--health-timeout", "0")])
def test_wrong_settings_are_refused(fake_flags: tuple[str, ...], tmp_path: Path, flags: tuple[str, ...]) -> None:
    server = Server(*fake_flags, *flags, log=tmp_path / "log")
    assert server.process.wait(60) == 2
    assert "error: " in server.log.read_text()
