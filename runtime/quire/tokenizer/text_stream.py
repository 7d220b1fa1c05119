"""Token ids to text piece by piece, with the same outcome as decoding them all at once.

Two ways: `ByteStream` where a token is its bytes (byte-level BPE, most models), which costs a table look-up; and
`WindowStream` for every other decoder, which decodes a short window of the latest tokens again.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Protocol

from quire.tokenizer.tokenizer import Tokenizer

REPLACEMENT = "\ufffd"


class TextStream(Protocol):
    """Text of tokens that arrive one at a time."""

    def push(self, token_id: int) -> str:
        """The text that became certain with this token; an unfinished character waits for the next ones."""

    def push_at(self, token_id: int) -> tuple[int, str]:
        """As `push`, with how many characters of the text come before the token's own first one.

        They are those of earlier tokens that waited; a token that goes on with their character begins at 0.
        """

    def flush(self) -> str:
        """What is left at the end: an unfinished character, as U+FFFD."""


def text_stream(tokenizer: Tokenizer, prompt_ids: Sequence[int], skip_special_tokens: bool) -> TextStream:
    """A stream of the text after `prompt_ids`, which decide whether a leading space or half a character counts."""
    if tokenizer.token_bytes.is_byte_level:
        return ByteStream(tokenizer, prompt_ids, skip_special_tokens)
    return WindowStream(tokenizer, prompt_ids, skip_special_tokens)


class ByteStream:
    """For byte-level vocabularies: the bytes of each token through an incremental UTF-8 decoder."""

    def __init__(self, tokenizer: Tokenizer, prompt_ids: Sequence[int], skip_special_tokens: bool) -> None:
        self._bytes = tokenizer.token_bytes
        self._skipped = tokenizer.special_token_ids if skip_special_tokens else frozenset()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for token_id in _last_visible(tokenizer, prompt_ids, self._skipped, 4):  # a character has at most 4 bytes
            self.push(token_id)

    def push(self, token_id: int) -> str:
        return "" if token_id in self._skipped else self._decoder.decode(self._bytes[token_id])

    def push_at(self, token_id: int) -> tuple[int, str]:
        token = b"" if token_id in self._skipped else self._bytes[token_id]
        if not token:
            return 0, ""
        text = self._decoder.decode(token[:1])
        begins_or_continues = bool(self._decoder.getstate()[0])  # else the byte's character is the text's last
        num_before = len(text) - (0 if begins_or_continues else 1)
        return num_before, text + self._decoder.decode(token[1:])

    def flush(self) -> str:
        return self._decoder.decode(b"", final=True)


class WindowStream:
    """For decoders that look at neighbours (leading spaces, byte tokens, word pieces).

    The window starts at a character's border and is cut back as it grows, so a token costs the same at any length.
    """

    KEPT = 8
    LONGEST = 24
    HELD = 4  # a character has at most 4 byte tokens; after so many, U+FFFD is meant

    def __init__(self, tokenizer: Tokenizer, prompt_ids: Sequence[int], skip_special_tokens: bool) -> None:
        self._tokenizer = tokenizer
        self._skipped = tokenizer.special_token_ids if skip_special_tokens else frozenset()
        visible = _last_visible(tokenizer, prompt_ids, self._skipped, self.KEPT + self.HELD)
        start = max(len(visible) - self.KEPT, 0)
        while start > 0 and self._decode(visible[start:]).startswith(REPLACEMENT):
            start -= 1  # the window would begin in the middle of a character
        self._window = visible[start:]
        self._sent = self._decode(self._window)
        while self._sent.endswith(REPLACEMENT) and self._is_part_of_char(self._window[-1]):
            self._sent = self._sent[:-1]
        self._borders: list[int] = []  # lengths of the window at which its text was complete
        self._num_held = 0

    def push(self, token_id: int) -> str:
        if token_id in self._skipped or self._tokenizer.backend.id_to_token(token_id) is None:
            return ""
        self._window.append(token_id)
        text = self._decode(self._window)
        if text.endswith(REPLACEMENT) and self._num_held + 1 < self.HELD:
            self._num_held += 1
            return ""
        self._num_held = 0
        delta, self._sent = text[len(self._sent) :], text
        self._borders.append(len(self._window))
        if len(self._window) > self.LONGEST:
            self._cut()
        return delta

    def push_at(self, token_id: int) -> tuple[int, str]:
        piece = self.push(token_id)
        own = self._tokenizer.token_text(token_id)
        return (len(piece) - len(own) if own and piece.endswith(own) else 0), piece

    def flush(self) -> str:
        text = self._decode(self._window)
        delta, self._sent = text[len(self._sent) :], text
        return delta

    def _decode(self, token_ids: list[int]) -> str:
        return self._tokenizer.decode(token_ids, skip_special_tokens=False)

    def _cut(self) -> None:
        """Drops the window's beginning, up to a border; KEPT tokens or more stay.

        Something must stay: the next token would else count as a text's first and lose its leading space.
        """
        borders = [border for border in self._borders if border <= len(self._window) - self.KEPT]
        if borders:
            self._window = self._window[borders[-1] :]
            self._sent = self._decode(self._window)
            self._borders = [border - borders[-1] for border in self._borders if border > borders[-1]]

    def _is_part_of_char(self, token_id: int) -> bool:
        return REPLACEMENT in self._tokenizer.token_text(token_id) and len(self._tokenizer.token_bytes[token_id]) == 1


def _last_visible(tokenizer: Tokenizer, token_ids: Sequence[int], skipped: frozenset[int], count: int) -> list[int]:
    """The last `count` ids that have a token and are not skipped."""
    found: list[int] = []
    for token_id in reversed(token_ids):
        if len(found) == count:
            break
        if token_id not in skipped and tokenizer.backend.id_to_token(token_id) is not None:
            found.append(token_id)
    return found[::-1]
