"""Log-probabilities in the two shapes of the API: parallel lists for completions, objects for chats.

A token is named by its text. One whose bytes are no text by themselves, such as a part of a character, is called
`bytes:\\xe2\\x82`, as OpenAI does; only the drawn token of a completion is shown with U+FFFD, as vLLM does, so that the
tokens side by side read like the text. One without a text is called `token_id:N`, and so is one whose name another
token of the same place has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from quire.outputs import Logprob, RequestOutput, TokenLogprobs
from quire.server.prompt_offsets import decoded_offsets, offsets_in_text

if TYPE_CHECKING:
    from quire.tokenizer import Tokenizer

LOWEST = -9999.0
"""Stands for minus infinity, which JSON does not have."""


class LogprobShapes:
    """Knows the texts and bytes of tokens; without a tokenizer, or with `as_ids`, a token is called token_id:N."""

    def __init__(self, tokenizer: Tokenizer | None, *, as_ids: bool = False) -> None:
        self._tokenizer = tokenizer
        self._names_are_ids = as_ids or tokenizer is None

    def naming_ids(self, as_ids: bool) -> LogprobShapes:
        """The same; with `as_ids`, tokens are called token_id:N."""
        return LogprobShapes(self._tokenizer, as_ids=True) if as_ids else self

    def completion(
        self,
        token_ids: Sequence[int],
        logprobs: Sequence[TokenLogprobs | None] | None,
        offsets: Sequence[int],
        num_top: int,
        text: str = " ",
    ) -> dict[str, Any] | None:
        """Parallel lists over tokens, each with its `num_top` most likely tokens and itself. None stays None.

        Args:
            text: what the tokens begin; a token there has no space in its name that the text does not begin with.
        """
        if logprobs is None:
            return None
        names = [self._shown(token_id) for token_id in token_ids]
        if not text.startswith(" "):
            names = [
                name.removeprefix(" ") or name if offset == 0 else name
                for name, offset in zip(names, offsets, strict=True)
            ]
        return {
            "tokens": names,
            "token_logprobs": [
                None if entry is None else _value(entry[token_id])
                for token_id, entry in zip(token_ids, logprobs, strict=True)
            ],
            "top_logprobs": [
                None if entry is None else self._by_name(entry, num_top, name)
                for name, entry in zip(names, logprobs, strict=True)
            ],
            "text_offset": list(offsets),
        }

    def chat(
        self, token_ids: Sequence[int], logprobs: Sequence[TokenLogprobs] | None, num_top: int
    ) -> dict[str, Any] | None:
        """The tokens, each with exactly its `num_top` most likely alternatives (itself where it is one of them)."""
        if logprobs is None:
            return None
        content = []
        for token_id, entry in zip(token_ids, logprobs, strict=True):
            top = [self._item(token, item) for token, item in most_likely(entry, num_top)]
            content.append({**self._item(token_id, entry[token_id]), "top_logprobs": top})
        return {"content": content}

    def prompt(self, logprobs: Sequence[TokenLogprobs | None]) -> list[dict[str, Any] | None]:
        """Per prompt token, token id -> logprob, rank and text."""
        return [
            None
            if entry is None
            else {
                str(token): {"logprob": _value(item), "rank": item.rank, "decoded_token": item.decoded_token}
                for token, item in entry.items()
            }
            for entry in logprobs
        ]

    def prompt_offsets(self, output: RequestOutput, text: str) -> list[int]:
        """Where the prompt's tokens begin in its `text`; all 0 without a tokenizer."""
        if self._tokenizer is None:
            return [0] * len(output.prompt_token_ids)
        if output.prompt is None:
            return decoded_offsets(self._tokenizer, output.prompt_token_ids)
        return offsets_in_text(self._tokenizer, output.prompt_token_ids, text)

    def _by_name(self, entry: TokenLogprobs, num_top: int, first_name: str) -> dict[str, float]:
        """The token of the place, called `first_name`, then the most likely ones; no name stands for two tokens."""
        first = next(iter(entry))
        others = [(token, item) for token, item in most_likely(entry, num_top) if token != first]
        named = {first_name: _value(entry[first])}
        for token, item in others:
            name = self._name(token)
            named[_id_name(token) if name in named else name] = _value(item)
        return named

    def _item(self, token_id: int, item: Logprob) -> dict[str, Any]:
        token_bytes = None if self._tokenizer is None else list(self._tokenizer.token_bytes[token_id])
        return {"token": self._name(token_id), "logprob": _value(item), "bytes": token_bytes}

    def _shown(self, token_id: int) -> str:
        """The token as `tokens` has it."""
        name = self._name(token_id)
        return self._tokenizer.token_text(token_id) if name.startswith("bytes:") and self._tokenizer else name

    def _name(self, token_id: int) -> str:
        if self._names_are_ids or self._tokenizer is None:
            return _id_name(token_id)
        token_bytes = self._tokenizer.token_bytes[token_id]
        try:
            return token_bytes.decode() or _id_name(token_id)
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token_bytes)


def most_likely(entry: TokenLogprobs, count: int) -> list[tuple[int, Logprob]]:
    """The `count` most likely tokens of a place, best first, equals by lower id."""
    return sorted(entry.items(), key=lambda pair: (-pair[1].logprob, pair[0]))[:count]


def _id_name(token_id: int) -> str:
    return f"token_id:{token_id}"


def _value(item: Logprob) -> float:
    return max(item.logprob, LOWEST)
