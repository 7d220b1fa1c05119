"""Byte-level BPE from a GGUF vocabulary ("gpt2")."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers

from quire.errors import ModelError
from quire.tokenizer.gguf.pre_tokenizers import PRE_TOKENIZERS, PreTokenizer
from quire.tokenizer.gguf.vocabulary import GgufVocabulary

logger = logging.getLogger(__name__)


def byte_level_tokenizer(vocabulary: GgufVocabulary, metadata: Mapping[str, Any]) -> tuple[tokenizers.Tokenizer, bool]:
    """The tokenizer, and whether texts begin with bos. Raises ModelError for a way of cutting that is not known."""
    cut = _pre_tokenizer(metadata.get("tokenizer.ggml.pre"), vocabulary.where)
    if not vocabulary.merges:
        raise ModelError(
            f"{vocabulary.where} has no tokenizer.ggml.merges",
            because="byte-level BPE needs them",
            hint="--tokenizer with a folder or an id on the hub",
        )
    vocab = {token: index for index, token in enumerate(vocabulary.tokens)}
    try:
        model = models.BPE(vocab, list(vocabulary.merges), ignore_merges=cut.ignores_merges)
    except Exception as error:  # the library raises bare Exception
        raise ModelError(
            f"{vocabulary.where}: vocabulary and merges do not fit",
            because=str(error),
            hint="--tokenizer with a folder or an id on the hub",
        ) from error
    backend = tokenizers.Tokenizer(model)
    if cut.normalizes:
        backend.normalizer = normalizers.NFC()
    prefix = vocabulary.flags.get("add_space_prefix", False)
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *(pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in cut.patterns),
            pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    vocabulary.add_marks(backend)
    return backend, vocabulary.flags.get("add_bos_token", cut.adds_bos)


def _pre_tokenizer(name: str | None, where: str) -> PreTokenizer:
    if name is None:
        logger.warning("%s does not say how texts are cut into words (tokenizer.ggml.pre): as 'default' does", where)
        name = "default"
    if name not in PRE_TOKENIZERS:
        raise ModelError(
            f"{where}: tokenizer.ggml.pre={name!r} not supported",
            because=f"known are {', '.join(sorted(PRE_TOKENIZERS))}",
            hint="--tokenizer with the folder or the hub id of the original model",
        )
    return PRE_TOKENIZERS[name]
