"""What may be imported where: the core knows no framework, and a command loads only what it needs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import quire

RUNTIME = Path(quire.__file__).parent
FRAMEWORKS = {"torch", "jax", "jaxlib", "triton", "transformers", "ray", "tensorflow"}
SERVER_ONLY = {"fastapi", "starlette", "uvicorn", "pydantic", "zmq", "msgspec", "prometheus_client"}
ON_DEMAND = {"huggingface_hub", "tqdm", "requests", "httpx"}
ANNOUNCED = {("tokenizer/loading.py", "transformers")}
"""Imports of a framework that the user is told of, inside a function."""


def run_python(*arguments: str) -> str:
    ended = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=120, check=True)
    return ended.stdout + ended.stderr


def loaded_by(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after running `code`."""
    output = run_python("-c", f"{code}\nimport sys\nprint('LOADED', *sys.modules)")
    return {name.split(".")[0] for name in output.rpartition("LOADED")[2].split()}


def imports_of(file: Path) -> Iterator[tuple[str, bool]]:
    """(top-level module, whether it is imported inside a function) of every import statement."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module]
        for name in names:
            yield name.split(".")[0], id(node) in inside


def test_the_core_names_no_framework_and_no_backend() -> None:
    files = sorted(RUNTIME.rglob("*.py"))
    assert len(files) > 50
    for file in files:
        for name, in_function in imports_of(file):
            if (file.relative_to(RUNTIME).as_posix(), name) in ANNOUNCED and in_function:
                continue
            assert name not in FRAMEWORKS, f"{file} imports {name}"
            assert not name.startswith("quire_"), f"{file} imports the backend {name}"


def test_import_quire_loads_nothing_but_itself() -> None:
    loaded = loaded_by("import quire")
    assert not loaded & (FRAMEWORKS | SERVER_ONLY | ON_DEMAND | {"numpy", "tokenizers", "jinja2"})


def test_import_quire_is_fast() -> None:
    report = run_python("-X", "importtime", "-c", "import quire")
    times_us = [int(match[1]) for match in re.finditer(r"\|\s*(\d+) \| quire$", report, re.MULTILINE)]
    assert len(times_us) == 1
    assert times_us[0] < 300_000


@pytest.mark.parametrize(
    "code",
    [
        "from quire import LLM, SamplingParams",
        "import quire.engine.llm_engine",
        "from quire.device.registry import list_devices",
    ],
)
def test_the_offline_engine_needs_no_server_package(code: str) -> None:
    assert not loaded_by(code) & (FRAMEWORKS | SERVER_ONLY | ON_DEMAND)


def test_quire_generate_loads_what_it_needs_and_no_more(byte_model: Path) -> None:
    words = [
        "generate",
        "a",
        "--model",
        str(byte_model),
        "--device",
        "fake",
        "--load-format",
        "dummy",
        "--max-tokens",
        "2",
    ]
    loaded = loaded_by(f"from quire.cli.main import main\nassert main({words!r}) == 0")
    assert "tokenizers" in loaded
    assert not loaded & (FRAMEWORKS | SERVER_ONLY | ON_DEMAND)
    assert "quire_cpu" not in loaded  # another backend than the one that was asked for


def test_auto_looks_at_every_backend_and_imports_no_framework(byte_model: Path) -> None:
    words = ["generate", "a", "--model", str(byte_model), "--load-format", "dummy", "--max-tokens", "2"]
    loaded = loaded_by(f"from quire.cli.main import main\nassert main({words!r}) == 0")
    assert "quire_cpu" in loaded
    assert not loaded & (FRAMEWORKS | SERVER_ONLY | ON_DEMAND)


@pytest.mark.parametrize("words", [["--help"], ["serve", "--help"], ["generate", "--help"], ["--version"]])
def test_help_loads_no_numpy(words: list[str]) -> None:
    loaded = loaded_by(f"from quire.cli.main import main\ntry:\n    main({words!r})\nexcept SystemExit: pass")
    assert not loaded & (FRAMEWORKS | SERVER_ONLY | ON_DEMAND | {"numpy", "tokenizers"})


def test_the_engine_process_holds_no_http_server() -> None:
    assert not loaded_by("import quire.engine.process") & {"fastapi", "uvicorn", "pydantic", "tokenizers", *FRAMEWORKS}


def test_the_server_process_holds_no_engine_core() -> None:
    output = run_python("-c", "import quire.server.run, quire.server.http_server, sys\nprint(*sys.modules)")
    assert not {"quire.engine.core", "quire.models", "quire.scheduler"} & set(output.split())
