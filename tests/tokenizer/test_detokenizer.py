from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.sampling_params import SamplingParams
from quire.tokenizer import IncrementalDetokenizer, Tokenizer
from quire.tokenizer.text_stream import ByteStream, WindowStream, text_stream
from tests.byte_model import EOS

KIND = st.sampled_from(["byte_level", "byte_fallback", "metaspace", "word_piece"])
TEXT = st.text(
    st.sampled_from("abc xyz.,\n\tßéЖж狐狸語한🙂🇫🇷‍👩﷽▁") | st.characters(blacklist_categories=["Cs", "Cc"]),
    max_size=60,
)


def pieces_of(tokenizer: Tokenizer, prompt_ids: list[int], token_ids: list[int], params: SamplingParams) -> list[str]:
    detokenizer = IncrementalDetokenizer(tokenizer, prompt_ids, params)
    return [detokenizer.append(token_id) for token_id in token_ids] + [detokenizer.finish()]


@settings(deadline=None, max_examples=400)
@given(kind=KIND, prompt=TEXT, text=TEXT, special=st.booleans())
def test_pieces_are_what_decoding_at_once_adds(
    tokenizers_by_kind: dict[str, Tokenizer], kind: str, prompt: str, text: str, special: bool
) -> None:
    tokenizer = tokenizers_by_kind[kind]
    prompt_ids = tokenizer.encode(prompt)
    token_ids = tokenizer.encode(text, add_special_tokens=False)
    skip = not special
    pieces = pieces_of(tokenizer, prompt_ids, token_ids, SamplingParams(skip_special_tokens=skip))
    whole = tokenizer.decode(prompt_ids + token_ids, skip_special_tokens=skip)
    assert tokenizer.decode(prompt_ids, skip_special_tokens=skip) + "".join(pieces) == whole


@settings(deadline=None, max_examples=200)
@given(token_ids=st.lists(st.integers(0, 430), max_size=60), skip=st.booleans())
def test_any_tokens_of_a_byte_level_vocabulary(
    tokenizers_by_kind: dict[str, Tokenizer], token_ids: list[int], skip: bool
) -> None:
    """Whatever a model says: broken characters, special tokens, ids without a token."""
    tokenizer = tokenizers_by_kind["byte_level"]
    pieces = pieces_of(tokenizer, [], token_ids, SamplingParams(skip_special_tokens=skip))
    assert "".join(pieces) == tokenizer.decode(token_ids, skip_special_tokens=skip)


@settings(deadline=None, max_examples=200)
@given(kind=KIND, text=TEXT.filter(lambda text: "\ufffd" not in text))
def test_characters_are_never_split(tokenizers_by_kind: dict[str, Tokenizer], kind: str, text: str) -> None:
    tokenizer = tokenizers_by_kind[kind]
    pieces = pieces_of(tokenizer, [], tokenizer.encode(text, add_special_tokens=False), SamplingParams())
    assert not any("\ufffd" in piece for piece in pieces)


@settings(deadline=None, max_examples=100)
@given(kind=st.sampled_from(["byte_level", "byte_fallback"]), cut=st.integers(1, 3))
def test_a_prompt_may_end_inside_a_character(tokenizers_by_kind: dict[str, Tokenizer], kind: str, cut: int) -> None:
    tokenizer = tokenizers_by_kind[kind]
    token_ids = tokenizer.encode("so: 𓀀 yes", add_special_tokens=False)
    first = next(i for i, token in enumerate(token_ids) if 0xF0 in tokenizer.token_bytes[token])
    pieces = pieces_of(tokenizer, token_ids[: first + cut], token_ids[first + cut :], SamplingParams())
    assert "".join(pieces) == "𓀀 yes"


def test_half_a_character_at_the_end_is_shown_as_such(tokenizers_by_kind: dict[str, Tokenizer]) -> None:
    for kind in ("byte_level", "byte_fallback"):
        tokenizer = tokenizers_by_kind[kind]
        token_ids = tokenizer.encode("a 𓀀", add_special_tokens=False)[:-1]
        pieces = pieces_of(tokenizer, [], token_ids, SamplingParams())
        assert "".join(pieces) == tokenizer.decode(token_ids)
        assert pieces[-1].startswith("\ufffd")


def test_a_word_after_a_prompt_keeps_its_space(tokenizers_by_kind: dict[str, Tokenizer]) -> None:
    for kind in ("byte_fallback", "metaspace"):
        tokenizer = tokenizers_by_kind[kind]
        prompt_ids, token_ids = tokenizer.encode("The quick"), tokenizer.encode("dog", add_special_tokens=False)
        assert "".join(pieces_of(tokenizer, prompt_ids, token_ids, SamplingParams())) == " dog"
        assert "".join(pieces_of(tokenizer, [], token_ids, SamplingParams())) == "dog"


def test_special_tokens_are_skipped_or_shown(any_tokenizer: Tokenizer) -> None:
    end = any_tokenizer.backend.token_to_id("<|end|>")
    token_ids = [*any_tokenizer.encode("dog", add_special_tokens=False), end]
    assert "".join(pieces_of(any_tokenizer, [], token_ids, SamplingParams())) == "dog"
    shown = "".join(pieces_of(any_tokenizer, [], token_ids, SamplingParams(skip_special_tokens=False)))
    assert shown == any_tokenizer.decode(token_ids, skip_special_tokens=False)
    assert shown.endswith("<|end|>")


@settings(deadline=None, max_examples=300)
@given(
    kind=KIND,
    text=st.text("abSTOP 狐🙂\n", min_size=1, max_size=40),
    stops=st.lists(st.text("abSTOP 狐🙂\n", min_size=1, max_size=5), min_size=1, max_size=3),
    include=st.booleans(),
)
def test_stop_strings_never_show_by_halves(
    tokenizers_by_kind: dict[str, Tokenizer], kind: str, text: str, stops: list[str], include: bool
) -> None:
    tokenizer = tokenizers_by_kind[kind]
    token_ids = tokenizer.encode(text, add_special_tokens=False)
    whole = tokenizer.decode(token_ids)
    params = SamplingParams(stop=stops, include_stop_str_in_output=include)
    detokenizer = IncrementalDetokenizer(tokenizer, [], params)
    pieces = [detokenizer.append(token_id) for token_id in token_ids]
    if detokenizer.stop_string is None:
        held = whole[len("".join(pieces)) :]
        assert any(stop.startswith(held) for stop in stops) or "\ufffd" in held  # no more is held back than needed
    pieces.append(detokenizer.finish())
    ends = [(whole.index(stop) + len(stop), whole.index(stop), stop) for stop in stops if stop in whole]
    if not ends:
        assert detokenizer.stop_string is None
        assert "".join(pieces) == whole
        return
    end, start, stop = min(ends)
    assert detokenizer.stop_string == stop
    assert "".join(pieces) == (whole[:end] if include else whole[:start])


def test_tokens_after_a_stop_string_are_ignored(tokenizers_by_kind: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers_by_kind["byte_level"]
    detokenizer = IncrementalDetokenizer(tokenizer, [], SamplingParams(stop="o"))
    token_ids = tokenizer.encode("x o y o", add_special_tokens=False)
    assert "".join(detokenizer.append(token_id) for token_id in token_ids) == "x "
    assert detokenizer.finish() == ""
    assert detokenizer.num_tokens < len(token_ids)


def test_min_tokens_delay_the_search(tokenizers_by_kind: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers_by_kind["byte_level"]
    token_ids = [tokenizer.backend.token_to_id(letter) for letter in "abab"]
    params = SamplingParams(stop="a", min_tokens=2)
    assert "".join(pieces_of(tokenizer, [], token_ids, params)) == "ab"
    assert "".join(pieces_of(tokenizer, [], token_ids, SamplingParams(stop="a"))) == ""


def test_the_kind_of_stream_follows_the_decoder(tokenizers_by_kind: dict[str, Tokenizer]) -> None:
    kinds = {kind: type(text_stream(tokenizer, [], True)) for kind, tokenizer in tokenizers_by_kind.items()}
    assert kinds.pop("byte_level") is ByteStream
    assert set(kinds.values()) == {WindowStream}


def test_both_streams_agree(tokenizers_by_kind: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers_by_kind["byte_level"]
    token_ids = tokenizer.encode("Straße 狐狸 🙂🇫🇷 and on " * 9, add_special_tokens=False)
    texts = []
    for stream in (ByteStream(tokenizer, [], True), WindowStream(tokenizer, [], True)):
        texts.append("".join(stream.push(token_id) for token_id in token_ids) + stream.flush())
    assert texts[0] == texts[1] == tokenizer.decode(token_ids)


@pytest.mark.parametrize("text", ["The quick brown fox ", "狐狸", " "])
def test_the_cost_of_a_token_does_not_grow(any_tokenizer: Tokenizer, text: str) -> None:
    token_ids = any_tokenizer.encode(text * 600, add_special_tokens=False)[:4000] * 3
    detokenizer = IncrementalDetokenizer(any_tokenizer, [], SamplingParams(stop=["never so"]))
    third = len(token_ids) // 3
    times = []
    for part in range(3):
        start = time.perf_counter()
        for token_id in token_ids[part * third : (part + 1) * third]:
            detokenizer.append(token_id)
        times.append(time.perf_counter() - start)
    assert times[2] < 5 * times[0] + 0.05


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("stop", ["<|end|>", "b<|end|>", "<|end|>c", "b<|end|>c"])
def test_stop_strings_with_special_tokens_are_found_though_they_are_not_shown(
    byte_model: Path, skip: bool, keep: bool, stop: str
) -> None:
    tokenizer = Tokenizer.from_folder(byte_model)
    params = SamplingParams(stop=["zzz", stop], skip_special_tokens=skip, include_stop_str_in_output=keep)
    detokenizer = IncrementalDetokenizer(tokenizer, [], params)
    token_ids = [*b"a", EOS, *b"ab", EOS, *b"cd"] if "b" in stop else [*b"ab", EOS, *b"cd"]
    text = "".join([detokenizer.append(token_id) for token_id in token_ids] + [detokenizer.finish()])
    before = ("a" if skip else "a<|end|>") + "a" if "b" in stop else "ab"
    assert detokenizer.stop_string == stop
    assert text == before + (stop if keep else "")


def test_a_hidden_token_that_only_begins_a_stop_string_is_not_shown(byte_model: Path) -> None:
    tokenizer = Tokenizer.from_folder(byte_model)
    detokenizer = IncrementalDetokenizer(tokenizer, [], SamplingParams(stop="<|end|>!"))
    text = "".join([detokenizer.append(token_id) for token_id in (97, EOS, 98)] + [detokenizer.finish()])
    assert (text, detokenizer.stop_string) == ("ab", None)
