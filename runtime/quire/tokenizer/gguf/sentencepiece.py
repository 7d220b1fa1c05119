"""SentencePiece's BPE from a GGUF vocabulary ("llama"): pieces joined by their scores, unknown characters as bytes."""

from __future__ import annotations

import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from quire.tokenizer.gguf.piece_merger import PieceMerger
from quire.tokenizer.gguf.vocabulary import NORMAL, USER_DEFINED, GgufVocabulary

_SPACE = "▁"


def sentencepiece_tokenizer(vocabulary: GgufVocabulary, *, rstrip: bool) -> tuple[tokenizers.Tokenizer, bool]:
    """The tokenizer, and whether texts begin with bos.

    Args:
        rstrip: control tokens take the white space after them with them.
    """
    runs = frozenset(
        token
        for token, kind in zip(vocabulary.tokens, vocabulary.types, strict=True)
        if kind == USER_DEFINED and len(token) > 1 and not token.strip(" " + _SPACE)
    )
    tokens = [token.replace(" ", _SPACE) if token in runs else token for token in vocabulary.tokens]
    vocab = {token: index for index, token in enumerate(tokens)}
    unknown = vocabulary.special_text("unknown")
    has_bytes = "<0x00>" in vocab
    merges = list(vocabulary.merges)
    backend = tokenizers.Tokenizer(
        models.BPE(vocab, merges, unk_token=unknown, fuse_unk=True, byte_fallback=has_bytes, ignore_merges=not merges)
    )
    if not merges:
        merger = _merger(vocabulary, tokens, runs, unknown_stay_together=not has_bytes)
        backend.pre_tokenizer = pre_tokenizers.PreTokenizer.custom(merger)
    adds_space = vocabulary.flags.get("add_space_prefix", True)
    spaces = normalizers.Replace(" ", _SPACE)
    backend.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), spaces]) if adds_space else spaces
    decoding = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*decoding, decoders.Strip(" ", 1, 0)] if adds_space else decoding)
    vocabulary.add_marks(backend, rstrip=rstrip, skip=runs)
    return backend, vocabulary.flags.get("add_bos_token", True)


def _merger(
    vocabulary: GgufVocabulary, tokens: list[str], runs: frozenset[str], *, unknown_stay_together: bool
) -> PieceMerger:
    """Joins normal tokens, the best score first; runs of spaces, which files give no score, before them."""
    is_normal = np.asarray(vocabulary.types) == NORMAL
    is_run = np.fromiter((token in runs for token in vocabulary.tokens), bool, len(tokens)) if runs else False
    ids = np.flatnonzero(is_normal | is_run)
    costs = np.where(is_normal, -np.asarray(vocabulary.scores, np.float64), 0.0)[ids]
    ranks = np.empty(len(ids), np.int64)
    ranks[np.lexsort((ids, costs, is_normal[ids]))] = np.arange(len(ids))
    return PieceMerger(
        [tokens[index] for index in ids.tolist()], ranks.tolist(), unknown_stay_together=unknown_stay_together
    )
