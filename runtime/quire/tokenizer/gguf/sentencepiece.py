"""SentencePiece's BPE from a GGUF vocabulary ("llama"): merges recovered from the scores, unknown characters as bytes.

SentencePiece joins the pair whose union scores best; ranking all pairs by their union's score does the same.
"""

from __future__ import annotations

import tokenizers
from tokenizers import decoders, models, normalizers

from quire.tokenizer.gguf.vocabulary import NORMAL, USER_DEFINED, GgufVocabulary

_SPACE = "▁"


def sentencepiece_tokenizer(vocabulary: GgufVocabulary, *, rstrip: bool) -> tuple[tokenizers.Tokenizer, bool]:
    """The tokenizer, and whether texts begin with bos.

    Args:
        rstrip: control tokens take the white space after them with them.
    """
    runs = frozenset(token for token, kind in zip(vocabulary.tokens, vocabulary.types, strict=True)
                     if kind == USER_DEFINED and len(token) > 1 and not token.strip(" " + _SPACE))
    tokens = [token.replace(" ", _SPACE) if token in runs else token for token in vocabulary.tokens]
    vocab = {token: index for index, token in enumerate(tokens)}
    unknown = vocabulary.special_text("unknown")
    has_bytes = "<0x00>" in vocab
    merges = list(vocabulary.merges) or _merges(vocabulary, tokens, runs)
    backend = tokenizers.Tokenizer(models.BPE(
        vocab, merges, unk_token=unknown, fuse_unk=True, byte_fallback=has_bytes))
    adds_space = vocabulary.flags.get("add_space_prefix", True)
    spaces = normalizers.Replace(" ", _SPACE)
    backend.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), spaces]) if adds_space else spaces
    decoding = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*decoding, decoders.Strip(" ", 1, 0)] if adds_space else decoding)
    vocabulary.add_marks(backend, rstrip=rstrip, skip=runs)
    return backend, vocabulary.flags.get("add_bos_token", True)


def _merges(vocabulary: GgufVocabulary, tokens: list[str], runs: frozenset[str]) -> list[tuple[str, str]]:
    """Every pair whose union is a token, the best union first; runs of spaces, which files give no score, before."""
    ids = {token: index for index, token in enumerate(tokens)
           if vocabulary.types[index] == NORMAL or vocabulary.tokens[index] in runs}
    ranked = sorted(ids.values(), key=lambda index: (
        vocabulary.types[index] == NORMAL,
        -vocabulary.scores[index] if vocabulary.types[index] == NORMAL else 0.0,
        index))
    merges: list[tuple[str, str]] = []
    for index in ranked:
        token = tokens[index]
        pairs = [(token[:cut], token[cut:]) for cut in range(1, len(token))
                 if token[:cut] in ids and token[cut:] in ids]
        merges += sorted(pairs, key=lambda pair: (ids[pair[0]], ids[pair[1]]))
    return merges
