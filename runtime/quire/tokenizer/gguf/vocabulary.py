"""The vocabulary of a GGUF file: tokens, their types and scores, merges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tokenizers import AddedToken, Tokenizer

from quire.errors import ModelError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""Values of tokenizer.ggml.token_type."""

_PREFIX = "tokenizer.ggml."


@dataclass(frozen=True, slots=True)
class GgufVocabulary:
    """What of the metadata tokenizers are made of.

    Attributes:
        where: how errors call the file.
        tokens: by id. types: of each token, see above. scores: of each token, zeros where the file has none.
        merges: pairs in order of preference, empty where the file has none.
        special_ids: "bos", "eos", "unknown" ... -> id, those that the vocabulary has.
        flags: tokenizer.ggml.add_bos_token, add_eos_token, add_space_prefix, those that the file sets.
    """

    where: str
    tokens: Sequence[str]
    types: Sequence[int]
    scores: Sequence[float]
    merges: Sequence[tuple[str, str]]
    special_ids: Mapping[str, int]
    flags: Mapping[str, bool]

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any], special_ids: Mapping[str, int], where: str) -> GgufVocabulary:
        """Raises ModelError where arrays are missing or do not fit each other."""
        tokens = list(metadata.get(f"{_PREFIX}tokens", ()))
        if not tokens:
            raise ModelError(
                f"{where} has no tokenizer",
                because=f"its metadata have no {_PREFIX}tokens",
                hint="--tokenizer with a folder or an id on the hub",
            )
        types = np.asarray(metadata.get(f"{_PREFIX}token_type", np.full(len(tokens), NORMAL)))
        scores = np.asarray(metadata.get(f"{_PREFIX}scores", np.zeros(len(tokens))))
        for name, array in (("token_type", types), ("scores", scores)):
            if array.shape != (len(tokens),):
                raise ModelError(
                    f"{where}: {_PREFIX}{name} has shape {list(array.shape)}",
                    because=f"there are {len(tokens)} tokens",
                    hint="downloading the file again",
                )
        if len(set(tokens)) != len(tokens):
            seen: set[str] = set()
            twice = next(token for token in tokens if token in seen or seen.add(token))  # type: ignore[func-returns-value]
            raise ModelError(
                f"{where}: the token {twice!r} is in the vocabulary twice",
                because="a token has one id",
                hint="--tokenizer with a folder or an id on the hub",
            )
        flags = {
            name: bool(metadata[f"{_PREFIX}{name}"])
            for name in ("add_bos_token", "add_eos_token", "add_space_prefix")
            if f"{_PREFIX}{name}" in metadata
        }
        merges = [_pair(merge) for merge in metadata.get(f"{_PREFIX}merges", ())]
        return cls(where, tokens, types.tolist(), scores.tolist(), merges, special_ids, flags)

    def special_text(self, name: str) -> str | None:
        """The token that the file calls `name`."""
        index = self.special_ids.get(name)
        return None if index is None else self.tokens[index]

    def add_marks(self, backend: Tokenizer, *, rstrip: bool = False, skip: frozenset[str] = frozenset()) -> None:
        """Adds the tokens that are found in texts as they are, before anything else: control and user-defined ones.

        Args:
            rstrip: control tokens take the white space after them with them, but for those of `_NEVER_STRIPPING`.
            skip: user-defined tokens that are left to the model.
        """
        marked = list(zip(self.tokens, self.types, strict=True))
        backend.add_special_tokens(
            [
                AddedToken(token, special=True, normalized=False, rstrip=rstrip and token not in _NEVER_STRIPPING)
                for token, kind in marked
                if kind in (CONTROL, UNKNOWN)
            ]
        )
        backend.add_tokens(
            [
                AddedToken(token, special=False, normalized=False)
                for token, kind in marked
                if kind == USER_DEFINED and token not in skip
            ]
        )


_NEVER_STRIPPING = frozenset({"<unk>", "<s>", "<|endoftext|>"})


def _pair(merge: str) -> tuple[str, str]:
    """The two sides of "left right"; a side may begin with a space of its own."""
    left, _, right = merge[1:].partition(" ")
    return merge[:1] + left, right
