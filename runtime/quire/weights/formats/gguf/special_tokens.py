"""Which tokens of a GGUF vocabulary begin, end and pad texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from quire.errors import ModelError

NAMES = ("bos", "eos", "unknown", "seperator", "padding", "cls", "mask")
"""Tokens that files name under tokenizer.ggml.<name>_token_id, in the format's spelling."""

_MARKS = (3, 4)  # of tokenizer.ggml.token_type: control, user-defined

_SENTENCEPIECE_IDS = {"bos": 1, "eos": 2, "unknown": 0}
"""What files with a SentencePiece vocabulary mean when they say nothing."""

_TURN_ENDS = frozenset(
    {
        "<|eot_id|>",
        "<|im_end|>",
        "<|end|>",
        "<end_of_turn>",
        "<|endoftext|>",
        "<|end_of_text|>",
        "<|eom_id|>",
        "<EOT>",
        "<|fim_pad|>",
    }
)
"""Control tokens that end a text or a turn whatever the file names as eos: many files name only one of theirs."""


def token_id(metadata: Mapping[str, Any], name: str) -> int | None:
    """The id of "bos", "eos", "unknown", "padding", "eot" ...; None where the vocabulary has none.

    Raises ModelError for an id outside the vocabulary.
    """
    tokens = metadata.get("tokenizer.ggml.tokens", ())
    found = metadata.get(f"tokenizer.ggml.{name}_token_id")
    if found is None and metadata.get("tokenizer.ggml.model") == "llama":
        found = _SENTENCEPIECE_IDS.get(name)
        if found is not None and found >= len(tokens):
            return None
    if found is None:
        return None
    if not isinstance(found, int) or not 0 <= found < len(tokens):
        raise ModelError(
            f"tokenizer.ggml.{name}_token_id={found!r}",
            because=f"the file's vocabulary has {len(tokens)} tokens",
            hint="another file of the model",
        )
    return found


def named_token_ids(metadata: Mapping[str, Any]) -> dict[str, int]:
    """Ids of those of `NAMES` that the vocabulary has."""
    return {name: found for name in NAMES if (found := token_id(metadata, name)) is not None}


def end_token_ids(metadata: Mapping[str, Any]) -> list[int]:
    """Tokens that end generation: eos first, then ends of turns and messages."""
    found = [token for name in ("eos", "eot", "eom") if (token := token_id(metadata, name)) is not None]
    tokens = metadata.get("tokenizer.ggml.tokens", ())
    marked = np.flatnonzero(np.isin(metadata.get("tokenizer.ggml.token_type", ()), _MARKS)).tolist()
    found += [index for index in marked if index < len(tokens) and tokens[index] in _TURN_ENDS]
    return list(dict.fromkeys(found))
