"""Where the tokens of a prompt begin in its text, for `text_offset` with `echo`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quire.tokenizer import Tokenizer

_REACH = 64
"""How many bytes further on a token is looked for, where a normalizer took something out of the text."""


def decoded_offsets(tokenizer: Tokenizer, token_ids: Sequence[int]) -> list[int]:
    """Per token: the character at which it begins in the text of all of them, special tokens included."""
    from quire.tokenizer.text_stream import text_stream

    stream = text_stream(tokenizer, (), skip_special_tokens=False)
    offsets = []
    num_chars = 0
    for token_id in token_ids:
        num_before, piece = stream.push_at(token_id)
        offsets.append(num_chars + num_before)
        num_chars += len(piece)
    return offsets


def offsets_in_text(tokenizer: Tokenizer, token_ids: Sequence[int], text: str) -> list[int]:
    """Per token: the character at which it begins in the `text` that was tokenized.

    A token inside a character has that character's place. A token that stands for nothing in the text, such as a
    bos that was added, has the place of the token after it. Where a normalizer changed the text, a token that is not
    found has the place at which the one before ended.
    """
    data = text.encode()
    chars = _chars_at(text)
    place = 0
    offsets = []
    for token_id in token_ids:
        found = _find(data, place, tokenizer.token_bytes[token_id], is_special=token_id in tokenizer.special_token_ids)
        if found is None:
            offsets.append(chars[place])
        else:
            offsets.append(chars[found[0]])
            place = found[1]
    return offsets


def _find(data: bytes, place: int, token: bytes, *, is_special: bool) -> tuple[int, int] | None:
    """Begin and end of a token at `place` or shortly after; None where the text does not have it."""
    if not token:
        return None
    if data.startswith(token, place):
        return place, place + len(token)
    if is_special:
        return None
    if place == 0 and token.startswith(b" ") and data.startswith(token[1:]):  # a space that was put before the text
        return 0, len(token) - 1
    begin = data.find(token, place, place + _REACH)
    return (begin, begin + len(token)) if begin >= 0 else None


def _chars_at(text: str) -> list[int]:
    """Per byte of the text, and its end: the character that it belongs to."""
    chars: list[int] = []
    for index, char in enumerate(text):
        chars.extend([index] * len(char.encode()))
    chars.append(len(text))
    return chars
