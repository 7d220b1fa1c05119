"""Whole models whose files are wrong: what is said, and that it is said of the right file."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quire import LLM, SamplingParams
from quire.async_llm import AsyncLLM
from quire.engine.config import EngineConfig
from quire.errors import ModelError, QuireError
from tests.mutation.seeds import make_seeds


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_seeds(tmp_path_factory.mktemp("seeds"))


@pytest.fixture
def copied(seeds: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """copied("plain") -> a copy of that seed, to be changed."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(seeds[name], tmp_path / name))

    return copy


def refusal(folder: Path, **options: Any) -> ModelError:
    with pytest.raises(ModelError) as caught:
        LLM(str(folder), device="cpu", **options).close()
    return caught.value


def generates(folder: Path | str, **options: Any) -> bool:
    with LLM(str(folder), device="cpu", **options) as llm:
        return len(llm.generate("ab", SamplingParams(max_tokens=2, ignore_eos=True))[0].outputs[0].token_ids) == 2


def change(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


@pytest.mark.parametrize(
    "file",
    [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "chat_template.jinja",
        "model.safetensors.index.json",
    ],
)
@pytest.mark.parametrize("kind", ["a pipe", "a folder", "a device", "a link out"])
def test_nobody_waits_for_a_pipe_or_leaves_the_folder(file: str, kind: str, copied: Callable[[str], Path]) -> None:
    folder = copied("plain")
    (folder / file).unlink(missing_ok=True)
    make: dict[str, Callable[[Path], Any]] = {
        "a pipe": os.mkfifo,
        "a folder": Path.mkdir,
        "a device": lambda path: path.symlink_to("/dev/zero"),
        "a link out": lambda path: path.symlink_to("/etc/passwd"),
    }
    make[kind](folder / file)
    assert file in str(refusal(folder))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "config.json is missing"),
        ("{", "config.json is not JSON"),
        ("[]", "config.json does not hold a JSON object"),
        ("\0", "config.json is not JSON"),
        ('{"architectures": ["FooForCausalLM"]}', "'FooForCausalLM'"),
        ('{"architectures": ["LlamaForCausalLM"], "num_attention_heads": 0}', "num_attention_heads=0"),
    ],
)
def test_a_wrong_config_is_said_before_the_tokenizer_is_looked_at(
    content: str | None, said: str, copied: Callable[[str], Path]
) -> None:
    folder = copied("plain")
    (folder / "tokenizer.json").write_text("{")
    (folder / "config.json").unlink()
    if content is not None:
        (folder / "config.json").write_text(content)
    assert said in str(refusal(folder))

    async def start() -> None:
        engine = AsyncLLM(EngineConfig(model=str(folder), device="cpu"))
        try:
            await engine.start()
        finally:
            engine.close()

    with pytest.raises(QuireError) as caught:
        asyncio.run(start())
    assert said in str(caught.value)


def test_gguf_is_told_by_content(copied: Callable[[str], Path]) -> None:
    folder = copied("gguf")
    for name in ("model.bin", "sha256-0123abcd", "weights.GGUF"):
        file = next(folder.iterdir()).rename(folder / name)
        assert generates(file)
        assert generates(folder)
    not_one = folder / "other.gguf"
    not_one.write_bytes(b"PK\3\4" * 100)
    assert "begins with b'PK" in str(refusal(not_one))
    folder.joinpath("empty.gguf").touch()
    assert "2 GGUF models" in str(refusal(folder))


@pytest.mark.parametrize(
    "head",
    [
        struct.pack("<IQQ", 3, 2**17, 0),
        struct.pack("<IQQQcIIQ", 3, 0, 1, 1, b"k", 9, 8, 2**22),
        struct.pack("<IQQQcIIQ", 3, 0, 1, 1, b"k", 9, 9, 2**12),
        struct.pack("<IQQQcIQ", 3, 0, 1, 1, b"k", 8, 2**40),
        struct.pack("<IQQQ", 3, 0, 1, 2**63),
        struct.pack("<IQQ", 3, 2**63, 2**63),
    ],
)
def test_a_sparse_gguf_file_takes_neither_memory_nor_time(head: bytes, tmp_path: Path) -> None:
    """A terabyte of zeros behind a head that asks for as much as is read at all."""
    with (tmp_path / "x.gguf").open("wb") as file:
        file.write(b"GGUF" + head)
        file.truncate(2**40)
    assert "x.gguf" in str(refusal(tmp_path / "x.gguf"))


def test_sizes_that_the_files_do_not_have_are_said_to_be_that_and_not_to_be_too_large(
    copied: Callable[[str], Path],
) -> None:
    folder = copied("plain")
    change(folder / "config.json", vocab_size=2**31 - 1, intermediate_size=2**31 - 1)
    assert "does not hold the model that its config.json describes" in str(refusal(folder))


def test_shards_of_an_index_lie_in_the_folder(copied: Callable[[str], Path], seeds: dict[str, Path]) -> None:
    folder = copied("sharded")
    index = folder / "model.safetensors.index.json"
    names = json.loads(index.read_text())["weight_map"]
    for shard in (
        "../sharded/model-1.safetensors/../../../etc/passwd",
        "/etc/passwd",
        "../../etc/passwd",
        str(seeds["sharded"] / "model-1.safetensors"),
    ):
        change(index, weight_map=dict.fromkeys(names, shard))
        assert "leads out of the model's folder" in str(refusal(folder))
    change(index, weight_map={str(number): f"{number}.safetensors" for number in range(5000)})
    assert "names 5000 shards" in str(refusal(folder))
    for weight_map in (None, [], {}, "x", {"a": None}, {"a": 1}, {"a": ["b"]}, {"a": ""}):
        change(index, weight_map=weight_map)
        assert "no object weight_map" in str(refusal(folder))


def test_a_hub_snapshot_loads_through_its_links(seeds: dict[str, Path], tmp_path: Path) -> None:
    repository = tmp_path / "models--org--name"
    snapshot, blobs = repository / "snapshots" / "0123", repository / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, file in enumerate(sorted(seeds["plain"].iterdir())):
        (blobs / str(number)).write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    assert generates(snapshot)
    (tmp_path / "mine").symlink_to(snapshot)
    assert generates(tmp_path / "mine")
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to(seeds["plain"] / "config.json")
    assert "leads out" in str(refusal(snapshot))


@pytest.mark.parametrize(
    ("file", "content", "named"),
    [
        ("generation_config.json", {"top_k": 2**40}, "top_k"),
        ("generation_config.json", {"top_k": "20"}, "top_k"),
        ("generation_config.json", {"temperature": []}, "temperature"),
        ("generation_config.json", {"temperature": float("nan")}, "temperature"),
        ("generation_config.json", {"max_new_tokens": 1.5}, "max_new_tokens"),
        ("generation_config.json", {"max_new_tokens": 2**63}, "max_"),
        ("generation_config.json", {"repetition_penalty": -1}, "repetition_penalty"),
        ("generation_config.json", {"min_p": True}, "min_p"),
        ("generation_config.json", {"eos_token_id": {"a": 1}}, "eos_token_id"),
        ("generation_config.json", {"eos_token_id": "<nowhere>"}, "eos_token_id"),
        ("tokenizer_config.json", {"chat_template": [1]}, "chat_template"),
        ("tokenizer_config.json", {"chat_template": [{"name": "default"}]}, "chat_template"),
        ("tokenizer_config.json", {"chat_template": {"default": 3}}, "chat_template"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"x": {"content": "y"}}}, "added_tokens_decoder"),
        ("tokenizer_config.json", {"added_tokens_decoder": [1]}, "added_tokens_decoder"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"256": "y"}}, "added_tokens_decoder"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"256": {"content": ""}}}, "added_tokens_decoder"),
        ("tokenizer_config.json", {"eos_token": 7}, "eos_token"),
        ("special_tokens_map.json", {"bos_token": ["<s>"]}, "bos_token"),
    ],
)
def test_values_beside_the_config_have_ranges_too(
    file: str, content: dict[str, Any], named: str, copied: Callable[[str], Path]
) -> None:
    folder = copied("plain")
    (folder / file).write_text(json.dumps(content))
    error = refusal(folder)
    assert named in str(error)
    assert "cannot be read" not in str(error), "a check is missing: the last net caught it"


def test_a_chat_template_that_is_no_utf8_is_named(copied: Callable[[str], Path]) -> None:
    folder = copied("sharded")
    (folder / "additional_chat_templates" / "tool_use.jinja").write_bytes("é".encode("latin-1"))
    assert "tool_use.jinja is not a text in UTF-8" in str(refusal(folder))


def test_end_tokens_outside_the_vocabulary_end_no_engine(copied: Callable[[str], Path]) -> None:
    folder = copied("plain")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [99_999, 2**31 - 1, 300]}))
    with LLM(str(folder), device="cpu") as llm:
        params = SamplingParams(max_tokens=4, min_tokens=3)  # end tokens are kept from being drawn
        assert len(llm.generate("ab", params)[0].outputs[0].token_ids) >= 3


def test_an_end_token_may_be_a_text(copied: Callable[[str], Path]) -> None:
    folder = copied("plain")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ["<|end|>", "65", 66.0]}))
    with LLM(str(folder), device="cpu") as llm:
        assert llm.get_tokenizer().eos_token_ids == (256, 65, 66)


def test_a_tokenizer_that_panics_is_refused_with_its_file(copied: Callable[[str], Path]) -> None:
    """A post-processor whose template names a special token that it does not define: the library panics on use."""
    folder = copied("plain")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<x>", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}],
        "special_tokens": {},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert "tokenizer.json cannot be read" in str(refusal(folder))


def test_unknown_keys_are_named_in_the_log(copied: Callable[[str], Path], caplog: pytest.LogCaptureFixture) -> None:
    folder = copied("plain")
    assert generates(folder)
    assert "not known to be harmless" not in caplog.text
    change(folder / "config.json", residual_scaling=0.3)
    assert generates(folder)
    assert caplog.text.count("not known to be harmless: residual_scaling") == 1
