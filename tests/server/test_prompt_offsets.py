"""Where a prompt's tokens begin in its text."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers

from quire.server.prompt_offsets import decoded_offsets, offsets_in_text
from quire.tokenizer import Tokenizer
from tests.byte_model import EOS


@pytest.fixture(scope="module")
def tokenizer(byte_model: Path) -> Tokenizer:
    return Tokenizer.from_folder(byte_model)


def test_bytes_of_a_character_share_its_place(tokenizer: Tokenizer) -> None:
    text = "aé🙂b"
    ids = list(text.encode())
    assert offsets_in_text(tokenizer, ids, text) == [0, 1, 1, 2, 2, 2, 2, 3]
    assert decoded_offsets(tokenizer, ids) == [0, 1, 1, 2, 2, 2, 2, 3]


def test_an_added_token_has_no_place_and_a_written_one_has(tokenizer: Tokenizer) -> None:
    assert offsets_in_text(tokenizer, [EOS, 97, EOS, 98], "a<|end|>b") == [0, 0, 1, 8]
    assert offsets_in_text(tokenizer, [EOS, 97, 98], "ab") == [0, 0, 1]


def test_broken_characters_count_as_decoding_shows_them(tokenizer: Tokenizer) -> None:
    ids = [0xE2, 0x82, 97, 0xFF, 98, 0xC3]
    text = tokenizer.decode(ids, skip_special_tokens=False)
    assert text == "\ufffda\ufffdb\ufffd"
    assert decoded_offsets(tokenizer, ids) == [0, 0, 1, 2, 3, 4]


def test_a_space_that_only_the_tokens_have_and_what_a_normalizer_took() -> None:
    backend = Backend(models.BPE(vocab={"▁": 0, "a": 1, "b": 2, "▁a": 3}, merges=[("▁", "a")]))
    backend.normalizer = normalizers.StripAccents()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    assert offsets_in_text(Tokenizer(backend), [3, 2], "ab") == [0, 1]
    assert offsets_in_text(Tokenizer(backend), [3, 2, 3], "a\u0301b a") == [0, 2, 3]
