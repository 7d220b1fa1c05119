from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, models
from tokenizers import Tokenizer as Backend

from quire.errors import ModelError, RequestError
from quire.tokenizer import Tokenizer


def write(folder: Path, tokenizer: Tokenizer, config: dict[str, Any] | None = None, **files: Any) -> Path:
    """A checkpoint's tokenizer files."""
    tokenizer.backend.save(str(folder / "tokenizer.json"))
    files["tokenizer_config"] = {"bos_token": "<s>", "eos_token": "</s>"} if config is None else config
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def byte_level(tokenizers_by_kind: dict[str, Tokenizer]) -> Tokenizer:
    return tokenizers_by_kind["byte_level"]


def test_loads_what_transformers_loads(tmp_path: Path, byte_level: Tokenizer) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers, the oracle, is not installed")
    config = {
        "bos_token": "<s>",
        "eos_token": {"__type": "AddedToken", "content": "</s>", "special": True},
        "pad_token": None,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    folder = write(tmp_path, byte_level, config)
    ours, theirs = Tokenizer.from_folder(folder), transformers.AutoTokenizer.from_pretrained(folder)
    assert (ours.bos_token_id, ours.eos_token_id, ours.pad_token_id) == (theirs.bos_token_id, theirs.eos_token_id, None)
    assert ours.vocab_size == len(theirs)
    for text in ("Hello, wörld 🙂\n\n  x", "a<|end|>b", "<tool> c", ""):
        assert ours.encode(text) == theirs.encode(text)
        assert ours.encode(text, add_special_tokens=False) == theirs.encode(text, add_special_tokens=False)
        for skip in (True, False):
            assert ours.decode(ours.encode(text), skip) == theirs.decode(ours.encode(text), skip_special_tokens=skip)


def test_special_tokens(any_tokenizer: Tokenizer) -> None:
    backend = any_tokenizer.backend
    assert any_tokenizer.encode("dog")[0] == any_tokenizer.bos_token_id == backend.token_to_id("<s>")
    assert any_tokenizer.eos_token_ids == (backend.token_to_id("</s>"),)
    assert {backend.token_to_id(token) for token in ("<s>", "</s>", "<|end|>")} <= any_tokenizer.special_token_ids
    assert any_tokenizer.decode(any_tokenizer.encode("dog")) == "dog"
    assert any_tokenizer.vocab_size == backend.get_vocab_size()


def test_a_token_that_is_not_special_stays_in_the_text(byte_level: Tokenizer) -> None:
    assert byte_level.backend.token_to_id("<tool>") not in byte_level.special_token_ids
    assert byte_level.decode(byte_level.encode("<tool>")) == "<tool>"


@pytest.mark.parametrize(
    ("generation", "config", "expected"),
    [
        ({"eos_token_id": [3, 2, 9]}, {"eos_token_id": 7}, (2, 3, 9)),
        ({"eos_token_id": 3}, {}, (2, 3)),
        ({"eos_token_id": None}, {"eos_token_id": 7}, (2, 7)),
        ({}, {"eos_token_id": [7]}, (2, 7)),
        ({}, {}, (2,)),
    ],
)
def test_all_tokens_that_end_a_text(
    tmp_path: Path, byte_level: Tokenizer, generation: Any, config: Any, expected: tuple[int, ...]
) -> None:
    write(tmp_path, byte_level, generation_config=generation)
    (tmp_path / "config.json").write_text(json.dumps(config))
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert (tokenizer.eos_token_ids, tokenizer.eos_token_id) == (expected, 2)


def test_the_end_of_text_may_come_from_the_generation_config_alone(tmp_path: Path, byte_level: Tokenizer) -> None:
    write(tmp_path, byte_level, {}, generation_config={"eos_token_id": [3, 2]})
    assert Tokenizer.from_folder(tmp_path).eos_token_id == 3


def test_special_tokens_map_fills_gaps(tmp_path: Path, byte_level: Tokenizer) -> None:
    write(tmp_path, byte_level, {"bos_token": "<s>"}, special_tokens_map={"bos_token": "no", "eos_token": "</s>"})
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert tokenizer.special_tokens == {"bos_token": "<s>", "eos_token": "</s>"}


def test_truncation_and_padding_of_the_file_are_off(tmp_path: Path, byte_level: Tokenizer) -> None:
    backend = Backend.from_str(byte_level.backend.to_str())
    backend.enable_truncation(4)
    backend.enable_padding(length=40)
    write(tmp_path, Tokenizer(backend))
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert tokenizer.encode("x" * 50) == byte_level.encode("x" * 50)


def test_tokens_only_the_config_names_are_added(tmp_path: Path, byte_level: Tokenizer) -> None:
    size = byte_level.vocab_size
    named = {
        str(size): {"content": "<|extra|>", "special": True},
        str(size + 1): {"content": "<plain>"},
        "1": {"content": "<s>", "special": True},
    }
    write(tmp_path, byte_level, {"added_tokens_decoder": named})
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert tokenizer.encode("<|extra|><plain>", add_special_tokens=False) == [size, size + 1]
    assert size in tokenizer.special_token_ids
    assert size + 1 not in tokenizer.special_token_ids
    write(tmp_path, byte_level, {"added_tokens_decoder": {"9999": {"content": "<|far|>", "special": True}}})
    with pytest.raises(ModelError, match=r"<\|far\|>.*9999"):
        Tokenizer.from_folder(tmp_path)


def test_token_texts_make_up_the_text(any_tokenizer: Tokenizer, tokenizers_by_kind: dict[str, Tokenizer]) -> None:
    if any_tokenizer is tokenizers_by_kind["word_piece"]:
        token_ids = any_tokenizer.encode("dog", add_special_tokens=False)
        assert any_tokenizer.token_text(token_ids[0])[0] == "d"
        return
    text = "The quick fox 狐"
    token_ids = any_tokenizer.encode(text, add_special_tokens=False)
    joined = b"".join(any_tokenizer.token_bytes[token_id] for token_id in token_ids)
    assert joined.decode().strip() == any_tokenizer.decode(token_ids, skip_special_tokens=False).strip()
    assert any_tokenizer.token_bytes[10**6] == b""
    assert any_tokenizer.token_text(any_tokenizer.eos_token_ids[0]) == "</s>"


def test_bytes_of_a_token_that_is_part_of_a_character(tokenizers_by_kind: dict[str, Tokenizer]) -> None:
    for kind in ("byte_level", "byte_fallback"):
        tokenizer = tokenizers_by_kind[kind]
        token_ids = tokenizer.encode("𓀀", add_special_tokens=False)[-4:]
        assert b"".join(tokenizer.token_bytes[token_id] for token_id in token_ids) == "𓀀".encode()
        assert tokenizer.token_text(token_ids[0]) == "\ufffd"


@pytest.mark.parametrize("content", ["é", "狐", "a b"])
def test_bytes_of_added_tokens_are_what_decoding_gives(byte_level: Tokenizer, content: str) -> None:
    backend = Backend.from_str(byte_level.backend.to_str())
    backend.add_tokens([AddedToken(content, normalized=False)])
    tokenizer = Tokenizer(backend)
    token_id = backend.token_to_id(content)
    assert tokenizer.token_text(token_id) == tokenizer.decode([token_id])


def test_text_that_is_no_unicode_is_refused(byte_level: Tokenizer) -> None:
    with pytest.raises(RequestError, match="surrogate"):
        byte_level.encode("broken \ud83d")


def test_damaged_and_missing_files_are_named(tmp_path: Path, byte_level: Tokenizer) -> None:
    with pytest.raises(ModelError, match="no folder"):
        Tokenizer.from_folder(tmp_path / "missing")
    (tmp_path / "tokenizer.json").write_text("{broken")
    with pytest.raises(ModelError, match=r"tokenizer\.json cannot be read"):
        Tokenizer.from_folder(tmp_path)
    write(tmp_path, byte_level)
    (tmp_path / "tokenizer_config.json").write_text("[1]")
    with pytest.raises(ModelError, match="does not hold a JSON object"):
        Tokenizer.from_folder(tmp_path)


def gpt2_files(folder: Path) -> None:
    """A tokenizer in the files that came before tokenizer.json."""
    model = models.BPE({"a": 0, "b": 1, "ab": 2, "Ġ": 3, "<|endoftext|>": 4}, [("a", "b")])
    model.save(str(folder))
    config = {
        "tokenizer_class": "GPT2Tokenizer",
        "eos_token": "<|endoftext|>",
        "bos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "config.json").write_text('{"model_type": "gpt2"}')


def test_older_formats_are_converted_and_it_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("transformers", reason="transformers, which converts, is not installed")
    gpt2_files(tmp_path)
    with caplog.at_level(logging.WARNING, "quire"):
        tokenizer = Tokenizer.from_folder(tmp_path)
    assert tokenizer.encode("ab a", add_special_tokens=False) == [2, 3, 0]
    assert tokenizer.eos_token_id == 4
    assert [record.name for record in caplog.records if "transformers converted" in record.message] == [
        "quire.tokenizer.loading"
    ]


def test_without_transformers_older_formats_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpt2_files(tmp_path)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModelError, match=r"no tokenizer\.json") as caught:
        Tokenizer.from_folder(tmp_path)
    assert "pip install transformers" in caught.value.hint


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="tokenizer"):
        Tokenizer.from_folder(tmp_path)


def test_importing_is_light() -> None:
    code = "import sys, quire.tokenizer; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded = set(done.stdout.split())
    assert "tokenizers" in loaded
    assert not loaded & {"jinja2", "transformers", "torch", "huggingface_hub", "numpy"}
