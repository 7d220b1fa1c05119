"""The demo model is a plain Hugging Face checkpoint that any engine loads, and it can do what its card says."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
from safetensors import safe_open

from quire.demo import demo_model_path

transformers = pytest.importorskip("transformers", reason="the demo model is loaded through transformers here")
torch = pytest.importorskip("torch", reason="transformers runs the demo model with torch")

MEBIBYTE = 1 << 20
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@cache
def tokenizer() -> Any:
    return transformers.AutoTokenizer.from_pretrained(demo_model_path())


@cache
def model() -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(demo_model_path(), dtype=torch.float32).eval()


def answer(prompt: str, *, tools: list[dict[str, Any]] | None = None) -> str:
    """The model's greedy answer to one user message."""
    ids = tokenizer().apply_chat_template(
        [{"role": "user", "content": prompt}], tools=tools, add_generation_prompt=True, return_tensors="pt"
    )["input_ids"]
    out = model().generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=64, do_sample=False)
    return tokenizer().decode(out[0, ids.shape[1] :], skip_special_tokens=True)


def test_files_are_there_and_small() -> None:
    folder = demo_model_path()
    names = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert names <= {path.name for path in folder.iterdir()}
    assert sum(path.stat().st_size for path in folder.iterdir() if path.is_file()) <= 12 * MEBIBYTE


def test_config_is_qwen3_with_tied_embeddings() -> None:
    config = json.loads((demo_model_path() / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["Qwen3ForCausalLM"]
    assert config["tie_word_embeddings"] is True
    assert config["num_attention_heads"] % config["num_key_value_heads"] == 0
    assert config["vocab_size"] == len(tokenizer())


def test_weights_are_bf16_and_finite() -> None:
    with safe_open(demo_model_path() / "model.safetensors", framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values())
    assert "lm_head.weight" not in tensors


def test_transformers_finds_every_weight() -> None:
    _, report = transformers.AutoModelForCausalLM.from_pretrained(demo_model_path(), output_loading_info=True)
    assert not report["unexpected_keys"]
    assert set(report["missing_keys"]) <= {"lm_head.weight"}


def test_stop_and_pad_tokens() -> None:
    generation = json.loads((demo_model_path() / "generation_config.json").read_text(encoding="utf-8"))
    assert generation["eos_token_id"] == tokenizer().convert_tokens_to_ids("<|im_end|>") == tokenizer().eos_token_id
    assert generation["pad_token_id"] == tokenizer().convert_tokens_to_ids("<|endoftext|>") == tokenizer().pad_token_id


@pytest.mark.parametrize("text", ["Sort: 12 7, 305!", "  two  spaces\n\nand lines", "Grüße, 世界 🙂", '{"a": [1, 2]}'])
def test_tokenizer_gives_any_text_back(text: str) -> None:
    assert tokenizer().decode(tokenizer()(text)["input_ids"]) == text


def test_digits_are_tokens_of_their_own() -> None:
    pieces = [tokenizer().decode([token]).strip() for token in tokenizer()("305, 41")["input_ids"]]
    assert pieces == ["3", "0", "5", ",", "4", "1"]


def test_chat_template_renders_roles_and_the_generation_prompt() -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "Bye"},
    ]
    text = tokenizer().apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nHello!<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n"
    )


def test_chat_template_renders_tools_calls_and_responses() -> None:
    call = {"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Oslo"}}}
    messages = [
        {"role": "user", "content": "Weather in Oslo?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": '{"degrees": 3}'},
    ]
    text = tokenizer().apply_chat_template(messages, tools=[WEATHER], tokenize=False)
    assert text.startswith("<|im_start|>system\n# Tools\n<tools>\n" + json.dumps(WEATHER) + "\n</tools>\n")
    assert '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call><|im_end|>' in text
    assert '<|im_start|>user\n<tool_response>\n{"degrees": 3}\n</tool_response><|im_end|>' in text


@pytest.mark.parametrize("question", ["What is a block table?", "what is a block table"])
def test_knows_what_a_block_table_is(question: str) -> None:
    said = answer(question)
    assert "block ids of one sequence" in said
    assert said.endswith(".")


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ("What is Quire?", ("LLM", "hardware")),
        ("What is a KV cache?", ("keys", "values")),
        ("What is continuous batching?", ("every step",)),
        ("How do I serve a model?", ("quire serve",)),
        ("How do I install Quire?", ("pip install",)),
        ("Which devices does Quire support?", ("CPU", "NVIDIA", "AMD", "TPU")),
        ("What is the conformance kit?", ("quire conform --device",)),
        ("What does top_p mean?", ("probabilities",)),
    ],
)
def test_knows_its_manual(question: str, words: tuple[str, ...]) -> None:
    said = answer(question)
    assert all(word in said for word in words), said


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("Repeat: red green yellow", "red green yellow"),
        ("Reverse the letters: q u i r e", "e r i u q"),
        ("Reverse the list: red, green, yellow", "yellow, green, red"),
        ("Sort the numbers: 7 3 9 1", "1 3 7 9"),
        ("Sort the letters: c a b", "a b c"),
        ("How many words: red green yellow", "3"),
        ("How many letters: q u i r e", "5"),
        ("Write in upper case: house garden", "HOUSE GARDEN"),
        ("Spell the word garden", "g a r d e n"),
        ("Count from 3 to 8.", "3 4 5 6 7 8"),
        ("Which is the largest: 3 8 5", "8"),
        ("What is the last word: sun moon star", "star"),
        ("Make JSON with name Ada and age 36.", '{"name": "Ada", "age": 36}'),
    ],
)
def test_solves_small_exercises(prompt: str, expected: str) -> None:
    assert answer(prompt) == expected


def test_calls_a_tool() -> None:
    said = answer("What is the weather in Paris?", tools=[WEATHER])
    assert said == '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
