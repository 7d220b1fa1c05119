"""The page of fields is what the code says, and no field is left out.

That a row tells the truth is tested where the field is: tests/server/test_foreign_request_fields.py,
tests/engine/test_vllm_options.py, tests/sampling/test_sampling_params.py.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from types import ModuleType

import openai
import pytest
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming as ChatFields
from openai.types.completion_create_params import CompletionCreateParamsNonStreaming as CompletionFields

from quire.engine.config import EngineConfig
from quire.engine.vllm_options import VLLM_OPTIONS
from quire.sampling_params import SamplingParams
from quire.server.schemas import ChatCompletionRequest, CompletionRequest
from tests.scripts import load_script

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return load_script("tools/api_fields.py")


def rows(page: str, title: str) -> dict[str, list[str]]:
    """The rows of a section's table: first cell -> the others."""
    section = page.split(f"## {title}\n")[1].split("\n## ")[0]
    cells = [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in section.splitlines()
        if line.startswith("| `")
    ]
    return {first.strip("| `"): others for first, *others in cells}


def test_the_committed_page_is_what_the_code_says(tool: ModuleType) -> None:
    assert tool.main(["--check"]) == 0


def test_check_notices_another_page(tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "page.md"
    other.write_text(tool.page() + "all is well\n")
    assert tool.main(["--check", "--output", str(other)]) == 1
    assert "is not what the code says" in capsys.readouterr().err


def test_every_field_has_a_row_with_a_meaning(tool: ModuleType) -> None:
    page = tool.page()
    for title, names in (
        ("POST /v1/completions", {*CompletionRequest.model_fields, *CompletionRequest.foreign}),
        ("POST /v1/chat/completions", {*ChatCompletionRequest.model_fields, *ChatCompletionRequest.foreign}),
        ("SamplingParams", {item.name for item in fields(SamplingParams)}),
        ("LLM", {*(item.name for item in fields(EngineConfig)), *VLLM_OPTIONS}),
    ):
        table = rows(page, title)
        assert set(table) == names
        assert not [name for name, cells in table.items() if not cells[-1]]


def test_what_openai_has_has_a_row(tool: ModuleType) -> None:
    assert set(tool.OPENAI["completions"].split()) <= {*CompletionRequest.model_fields, *CompletionRequest.foreign}
    assert set(tool.OPENAI["chat"].split()) <= {*ChatCompletionRequest.model_fields, *ChatCompletionRequest.foreign}


@pytest.mark.skipif(not openai.__version__.startswith("3.57."), reason="the page is about openai-python 3.57")
def test_what_openai_has_is_what_its_client_has(tool: ModuleType) -> None:
    assert set(tool.OPENAI["completions"].split()) == set(CompletionFields.__annotations__)
    assert set(tool.OPENAI["chat"].split()) == set(ChatFields.__annotations__)
