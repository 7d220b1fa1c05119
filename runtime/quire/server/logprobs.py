"""Log-probabilities in the two shapes of the API: parallel lists for completions, objects for chats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from quire.outputs import Logprob, TokenLogprobs

if TYPE_CHECKING:
    from quire.tokenizer import Tokenizer

LOWEST = -9999.0
"""Stands for minus infinity, which JSON does not have."""


class LogprobShapes:
    """Knows the texts and bytes of tokens; without a tokenizer a token is called token_id:N."""

    def __init__(self, tokenizer: Tokenizer | None) -> None:
        self._tokenizer = tokenizer

    def completion(self, token_ids: Sequence[int], logprobs: Sequence[TokenLogprobs | None] | None,
                   offset: int) -> dict[str, Any] | None:
        """Parallel lists over tokens; `offset` = place of the first one in the choice's text. None stays None."""
        if logprobs is None:
            return None
        tokens = [self._text(token_id) for token_id in token_ids]
        offsets = []
        for text in tokens:
            offsets.append(offset)
            offset += len(text)
        return {
            "tokens": tokens,
            "token_logprobs": [
                None if entry is None else _value(entry[token_id])
                for token_id, entry in zip(token_ids, logprobs, strict=True)
            ],
            "top_logprobs": [
                None if entry is None else {self._text(token): _value(item) for token, item in entry.items()}
                for entry in logprobs
            ],
            "text_offset": offsets,
        }

    def chat(
        self, token_ids: Sequence[int], logprobs: Sequence[TokenLogprobs] | None, num_top: int
    ) -> dict[str, Any] | None:
        """The tokens, each with its `num_top` most likely alternatives (itself among them)."""
        if logprobs is None:
            return None
        content = []
        for token_id, entry in zip(token_ids, logprobs, strict=True):
            ranked = sorted(
                ((item.rank or 0, token, item) for token, item in entry.items() if (item.rank or 0) <= num_top)
            )
            content.append({**self._item(token_id, entry[token_id]),
                            "top_logprobs": [self._item(token, item) for _, token, item in ranked]})
        return {"content": content}

    def prompt(self, logprobs: Sequence[TokenLogprobs | None]) -> list[dict[str, Any] | None]:
        """Per prompt token, token id -> logprob, rank and text."""
        return [
            None if entry is None else
            {str(token): {"logprob": _value(item), "rank": item.rank, "decoded_token": item.decoded_token}
             for token, item in entry.items()}
            for entry in logprobs
        ]

    def _item(self, token_id: int, item: Logprob) -> dict[str, Any]:
        token_bytes = None if self._tokenizer is None else list(self._tokenizer.token_bytes[token_id])
        return {"token": self._text(token_id), "logprob": _value(item), "bytes": token_bytes}

    def _text(self, token_id: int) -> str:
        return f"token_id:{token_id}" if self._tokenizer is None else self._tokenizer.token_text(token_id)


def _value(item: Logprob) -> float:
    return max(item.logprob, LOWEST)
