"""From the metadata of a GGUF file to a `Tokenizer`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import processors

from quire.errors import ModelError
from quire.tokenizer.chat_template import ChatTemplate
from quire.tokenizer.gguf.byte_level import byte_level_tokenizer
from quire.tokenizer.gguf.sentencepiece import sentencepiece_tokenizer
from quire.tokenizer.gguf.vocabulary import GgufVocabulary
from quire.tokenizer.loading import backend_of_json
from quire.tokenizer.tokenizer import Tokenizer

_TOKEN_NAMES = {
    "bos": "bos_token",
    "eos": "eos_token",
    "unknown": "unk_token",
    "seperator": "sep_token",
    "padding": "pad_token",
    "cls": "cls_token",
    "mask": "mask_token",
}
_TEMPLATE = "tokenizer.chat_template"
_PUBLISHED = "tokenizer.huggingface.json"


def gguf_tokenizer(
    metadata: Mapping[str, Any],
    *,
    special_ids: Mapping[str, int],
    eos_token_ids: Sequence[int],
    chat_template: str | Path | None = None,
    where: str = "the GGUF file",
) -> Tokenizer:
    """The tokenizer that the metadata describe, or the tokenizer.json that they hold.

    Args:
        metadata: the file's, by key.
        special_ids: "bos", "eos", "unknown", "padding" ... -> id, those that the vocabulary has.
        eos_token_ids: all tokens that end a text.
        chat_template: a Jinja template, or a file that holds one, instead of the file's own.
        where: how errors call the file.
    Raises: ModelError for a tokenizer that is missing, damaged, or of a kind that is not implemented.
    """
    vocabulary = GgufVocabulary.from_metadata(metadata, special_ids, where)
    published = metadata.get(_PUBLISHED)
    if isinstance(published, str):
        backend = backend_of_json(published.encode(), f"{where}: {_PUBLISHED}")
    else:
        backend = _built(vocabulary, metadata)
    special_tokens = {_TOKEN_NAMES[name]: vocabulary.tokens[index] for name, index in special_ids.items()}
    template = ChatTemplate.from_texts(_templates(metadata), special_tokens, override=chat_template)
    return Tokenizer(backend, special_tokens=special_tokens, chat_template=template, eos_token_ids=eos_token_ids)


def _built(vocabulary: GgufVocabulary, metadata: Mapping[str, Any]) -> tokenizers.Tokenizer:
    kind = metadata.get("tokenizer.ggml.model")
    if kind == "gpt2":
        backend, adds_bos = byte_level_tokenizer(vocabulary, metadata)
    elif kind == "llama":
        # Phi-3's files do not say that its control tokens strip; all of them do.
        backend, adds_bos = sentencepiece_tokenizer(vocabulary, rstrip=metadata.get("general.architecture") == "phi3")
    else:
        raise ModelError(
            f"{vocabulary.where}: tokenizer.ggml.model={kind!r} not supported",
            because="kinds that are read are gpt2 (byte-level BPE) and llama (SentencePiece BPE)",
            hint="--tokenizer with the folder or the hub id of the original model",
        )
    first = vocabulary.special_text("bos") if adds_bos else None
    last = vocabulary.special_text("eos") if vocabulary.flags.get("add_eos_token", False) else None
    if first is not None or last is not None:
        around = [(name, vocabulary.special_ids[name]) for name, text in (("bos", first), ("eos", last)) if text]
        template = [*([first] if first else ()), "$A", *([last] if last else ())]
        backend.post_processor = processors.TemplateProcessing(
            single=template,
            pair=[*template, "$B"],
            special_tokens=[(vocabulary.tokens[index], index) for _, index in around],
        )
    return backend


def _templates(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Chat templates by name; the one without a name is "default"."""
    named = {
        key.removeprefix(f"{_TEMPLATE}."): text
        for key, text in metadata.items()
        if key.startswith(f"{_TEMPLATE}.") and isinstance(text, str)
    }
    default = metadata.get(_TEMPLATE)
    return {**({"default": default} if isinstance(default, str) else {}), **named}
