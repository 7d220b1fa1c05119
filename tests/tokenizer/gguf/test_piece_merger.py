"""Pieces against `tokenizers`' own BPE with every merge written out, on random vocabularies."""

from __future__ import annotations

import random

import pytest
import tokenizers
from tokenizers import models, pre_tokenizers

from quire.tokenizer.gguf.piece_merger import PieceMerger

ALPHABET = "ab ▁é日🙂"
UNKNOWN = "xyz"


def random_vocabulary(dice: random.Random, size: int) -> list[str]:
    """Single characters and what comes of joining tokens, in an order that says nothing about their scores."""
    tokens = list(ALPHABET)
    while len(tokens) < size:
        union = dice.choice(tokens) + dice.choice(tokens)
        if len(union) <= 9 and union not in tokens:
            tokens.append(union)
    dice.shuffle(tokens)
    return tokens


def all_merges(tokens: list[str], ranks: list[int]) -> list[tuple[str, str]]:
    """Every pair whose union is a token, the best union first, then by the ids of the sides."""
    ids = {token: index for index, token in enumerate(tokens)}
    merges = []
    for token in sorted(tokens, key=lambda token: ranks[ids[token]]):
        pairs = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        merges += sorted(
            (pair for pair in pairs if pair[0] in ids and pair[1] in ids), key=lambda pair: (ids[pair[0]], ids[pair[1]])
        )
    return merges


def tokenizer(tokens: list[str], merger: PieceMerger | None, merges: list[tuple[str, str]]) -> tokenizers.Tokenizer:
    vocab = {token: index for index, token in enumerate([*tokens, "<unk>"])}
    backend = tokenizers.Tokenizer(
        models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, ignore_merges=merger is not None)
    )
    if merger is not None:
        backend.pre_tokenizer = pre_tokenizers.PreTokenizer.custom(merger)
    return backend


@pytest.mark.parametrize("seed", range(6))
def test_the_same_tokens_as_with_all_merges(seed: int) -> None:
    dice = random.Random(seed)
    tokens = random_vocabulary(dice, 60)
    ranks = list(range(len(tokens)))
    dice.shuffle(ranks)
    merger = PieceMerger(tokens, ranks, unknown_stay_together=True)
    ours, theirs = tokenizer(tokens, merger, []), tokenizer(tokens, None, all_merges(tokens, ranks))
    texts = ["", "a", "x", "xyz", "axxb"]
    texts += ["".join(dice.choices(ALPHABET + UNKNOWN, k=dice.randrange(1, 90))) for _ in range(200)]
    texts += ["".join(dice.choices(ALPHABET + UNKNOWN, k=length)) for length in (300, 20_000)]
    for text in texts:
        assert ours.encode(text).ids == theirs.encode(text).ids, text[:200]


def test_unknown_characters_stand_alone_where_bytes_stand_for_them() -> None:
    merger = PieceMerger(["a", "b", "ab"], [0, 1, 2], unknown_stay_together=False)
    assert merger.pieces("abxyab") == ["ab", "x", "y", "ab"]
    together = PieceMerger(["a", "b", "ab"], [0, 1, 2], unknown_stay_together=True)
    assert together.pieces("abxyab") == ["ab", "xy", "ab"]


def test_a_text_that_cannot_be_cut_is_one_word() -> None:
    merger = PieceMerger(["a", "aa", "aaaa"], [2, 1, 0], unknown_stay_together=False)
    assert merger.pieces("a" * 1000) == ["aaaa"] * 250
