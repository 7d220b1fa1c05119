"""What lies in the current folder is never executed, by any command."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from quire.child_process import python_command, python_environment
from tests.serving import wait_for

NAMES = (
    "argparse", "asyncio", "encodings", "fastapi", "huggingface_hub", "jinja2", "json", "logging", "msgspec",
    "ml_dtypes", "numpy", "prometheus_client", "pydantic", "quire", "quire_cpu", "random", "readline", "regex",
    "resource", "secrets", "sitecustomize", "starlette", "string", "subprocess", "tempfile", "tokenizers", "torch",
    "tqdm", "transformers", "typing", "usercustomize", "uuid", "uvicorn", "uvloop", "yaml", "zmq",
)  # fmt: skip
QUIRE = [sys.executable, str(Path(sysconfig.get_path("scripts")) / "quire")]
MODEL = ("--device", "fake", "--load-format", "dummy")
COMMANDS: dict[str, list[str]] = {
    "generate": ["generate", "--model", "{model}", *MODEL, "--max-tokens", "2", "a"],
    "chat": ["chat", "--model", "{model}", *MODEL, "--max-tokens", "2"],
    "devices": ["devices"],
    "models": ["models"],
    "inspect": ["inspect", "{model}"],
    "bench core": ["bench", "core", "--steps", "2"],
    "bench latency": ["bench", "latency", "--model", "{model}", *MODEL, "--input-len", "4", "--output-len", "2"],
    "bench startup": ["bench", "startup", "--model", "{model}", *MODEL, "--repeats", "1"],
    "conform": ["conform", "--device", "fake", "--level", "L0"],
}


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A folder whose files tell who imported them, in a folder beside it."""
    (tmp_path / "executed").mkdir()
    folder = tmp_path / "cloned"
    folder.mkdir()
    for name in NAMES:
        marker = tmp_path / "executed" / name
        (folder / f"{name}.py").write_text(f"open({str(marker)!r}, 'a').write('executed')\n")
    return folder


def executed(folder: Path) -> list[str]:
    return sorted(os.listdir(folder.parent / "executed"))


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_executes_what_lies_there(command: str, hostile: Path, byte_model: Path) -> None:
    words = [word.format(model=byte_model) for word in COMMANDS[command]]
    ended = subprocess.run(
        [*QUIRE, *words], cwd=hostile, input="a\n", capture_output=True, text=True, timeout=120, check=False
    )
    assert executed(hostile) == []
    assert ended.returncode == 0, ended.stderr


def test_serve_and_its_processes_do_not_either(hostile: Path, byte_model: Path) -> None:
    log = hostile.parent / "log"
    words = [*QUIRE, "serve", str(byte_model), *MODEL, "--port", "0"]
    with log.open("wb") as sink:
        server = subprocess.Popen(words, cwd=hostile, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink)
    try:
        wait_for(lambda: "serving on" in log.read_text() or server.poll() is not None, 90)
    finally:
        server.terminate()
        server.wait(30)
    assert executed(hostile) == []
    assert "serving on" in log.read_text()


def test_a_path_of_the_environment_brings_it_in_for_no_child(hostile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(hostile)
    (hostile / "below").mkdir()
    for path in ("", ":", ".", ":below", f"./:{os.sep}:below"):
        monkeypatch.setenv("PYTHONPATH", path)
        environment = python_environment()
        grandchild = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import numpy, json, yaml'])"
        subprocess.run(
            [*python_command("x")[:2], "-c", f"import numpy, json; {grandchild}"],
            env=environment,
            capture_output=True,
            check=True,
        )
        assert executed(hostile) == []
        kept = environment.get("PYTHONPATH", "")
        assert (str(hostile / "below") in kept) == ("below" in path)


def test_a_command_leaves_it_before_it_imports_more(hostile: Path, byte_model: Path) -> None:
    """An empty entry of PYTHONPATH makes Python itself look there; what is imported later comes from elsewhere."""
    for name in NAMES:
        if name not in ("numpy", "zmq", "msgspec", "tokenizers", "jinja2", "regex", "ml_dtypes", "tqdm"):
            (hostile / f"{name}.py").unlink()
    words = ["generate", "--model", str(byte_model), *MODEL, "--max-tokens", "2", "a"]
    ended = subprocess.run(
        [*QUIRE, *words],
        cwd=hostile,
        env={**os.environ, "PYTHONPATH": ":"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (ended.returncode, executed(hostile)) == (0, []), ended.stderr
