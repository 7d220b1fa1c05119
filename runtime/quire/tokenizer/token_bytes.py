"""The bytes each token stands for, as its decoder would write them inside a text."""

from __future__ import annotations

import json
import re
from typing import Any

import tokenizers
from tokenizers import decoders

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
METASPACE = "▁"


def byte_of_char() -> dict[str, int]:
    """The byte that each printable character stands for in a byte-level vocabulary.

    Printable Latin-1 bytes stand for themselves; the other 68 were given the characters from U+0100 on, in order.
    Source: the byte-level BPE of GPT-2 (Radford et al., 2019).
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in set(printable)]
    table.update({chr(0x100 + index): byte for index, byte in enumerate(others)})
    return table


class TokenBytes:
    """Bytes by token id, worked out on first use.

    Attributes:
        is_byte_level: the text of any tokens is the concatenation of their bytes, read as UTF-8.
    """

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        self._backend = backend
        self.is_byte_level = isinstance(backend.decoder, decoders.ByteLevel)
        parts = [] if self.is_byte_level or backend.decoder is None else _parts(backend.decoder)
        kinds = {part["type"] for part in parts}
        self._has_byte_tokens = "ByteFallback" in kinds
        self._has_metaspace = "Metaspace" in kinds or any(
            part["type"] == "Replace" and part.get("pattern") == {"String": METASPACE} for part in parts
        )
        self._byte_of_char = byte_of_char() if self.is_byte_level or "ByteLevel" in kinds else {}
        self._known: dict[int, bytes] = {}

    def __getitem__(self, token_id: int) -> bytes:
        """The token's bytes; empty for an id without a token."""
        known = self._known.get(token_id)
        if known is None:
            token = self._backend.id_to_token(token_id)
            known = self._known[token_id] = b"" if token is None else self._of(token)
        return known

    def _of(self, token: str) -> bytes:
        if self._byte_of_char:
            try:
                return bytes([self._byte_of_char[char] for char in token])
            except KeyError:  # an added token, written as it is
                return token.encode()
        if self._has_byte_tokens and (match := _BYTE_TOKEN.fullmatch(token)):
            return bytes([int(match[1], 16)])
        return (token.replace(METASPACE, " ") if self._has_metaspace else token).encode()


def _parts(decoder: Any) -> list[dict[str, Any]]:
    """The decoder's description, a sequence flattened."""
    description = json.loads(decoder.__getstate__())
    parts: list[dict[str, Any]] = description.get("decoders", [description])
    return parts
