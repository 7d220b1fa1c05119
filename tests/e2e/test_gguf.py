"""The built-in model as a GGUF file, from text to text, on the cpu device."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quire import LLM, SamplingParams
from quire.demo import demo_model_path
from quire.errors import ConfigError
from tests.gguf_export import add_tokenizer_json, everything, export
from tests.serving import Server

QUESTIONS = ("Hello! Who are you?", "What is a block table?", "How do I start a server?", "What is 2 + 3?")
GREEDY = SamplingParams(temperature=0, max_tokens=40)

Answers = Callable[[str], list[str]]


@pytest.fixture(scope="module")
def demo_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """demo_file("Q8_0") -> the built-in model with its matrices in that type."""
    folder = tmp_path_factory.mktemp("gguf")

    def path_of(kind: str) -> Path:
        path = folder / f"demo-{kind}.gguf"
        if not path.exists():
            export(
                demo_model_path(), path, everything(kind), lambda writer: add_tokenizer_json(writer, demo_model_path())
            )
        return path

    return path_of


def answers_of(model: str) -> list[str]:
    with LLM(model, device="cpu") as llm:
        conversations: list[Any] = [[{"role": "user", "content": question}] for question in QUESTIONS]
        return [output.outputs[0].text for output in llm.chat(conversations, GREEDY)]


@pytest.fixture(scope="module")
def published() -> list[str]:
    return answers_of("demo")


@pytest.mark.parametrize("kind", ["BF16", "F16"])
def test_answers_are_those_of_the_checkpoint(kind: str, demo_file: Callable[[str], Path], published: list[str]) -> None:
    assert answers_of(str(demo_file(kind))) == published


@pytest.mark.parametrize(("kind", "alike"), [("Q8_0", 3), ("Q5_1", 2), ("Q4_0", 1)])
def test_answers_in_integers_begin_alike(
    kind: str, alike: int, demo_file: Callable[[str], Path], published: list[str]
) -> None:
    answers = answers_of(str(demo_file(kind)))
    assert sum(ours[:24] == theirs[:24] for ours, theirs in zip(answers, published, strict=True)) >= alike


def test_the_file_says_how_texts_end(demo_file: Callable[[str], Path]) -> None:
    with LLM(str(demo_file("Q8_0")), device="cpu") as llm:
        tokenizer = llm.get_tokenizer()
        assert (tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.bos_token_id) == (2, 0, None)
        assert tokenizer.eos_token_ids == (2, 0)
        (output,) = llm.chat([{"role": "user", "content": QUESTIONS[0]}], SamplingParams(temperature=0, max_tokens=100))
    assert output.outputs[0].finish_reason == "stop"


def test_options_of_loading(demo_file: Callable[[str], Path]) -> None:
    with pytest.raises(ConfigError, match="load_format='safetensors'"):
        LLM(str(demo_file("F16")), device="cpu", load_format="safetensors")
    with pytest.raises(ConfigError, match="already quantized"):
        LLM(str(demo_file("Q8_0")), device="cpu", quantization="int4_g32")
    with LLM(str(demo_file("F16")), device="cpu", quantization="int8") as llm:
        schemes = {weight.scheme for part in llm.engine.loaded.model.parts() for weight in part.graph.weights.values()}
        assert "int8" in schemes


def test_it_is_served(demo_file: Callable[[str], Path], published: list[str], tmp_path: Path) -> None:
    path = demo_file("BF16")
    server = Server(str(path), "--device", "cpu", log=tmp_path / "log")
    try:
        with server.wait_ready().client() as client:
            (model,) = client.models.list()
            answer = client.chat.completions.create(
                model=model.id, messages=[{"role": "user", "content": QUESTIONS[0]}], temperature=0, max_tokens=40
            )
    finally:
        server.stop()
    assert model.id == str(path)
    assert answer.choices[0].message.content == published[0]


BENCH = ("bench", "latency", "--input-len", "8", "--output-len", "2", "--repeats", "1", "--json", "-")


@pytest.mark.parametrize("command", [("inspect", "--json"), BENCH])
def test_commands_take_it(command: tuple[str, ...], demo_file: Callable[[str], Path]) -> None:
    words = [sys.executable, "-m", "quire.cli.main", *command, "--model", str(demo_file("Q8_0")), "--device", "cpu"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)
