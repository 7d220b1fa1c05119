"""A folder's tokenizer as a `tokenizers.Tokenizer`, whatever files it came in."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import tokenizers

from quire.errors import ModelError

logger = logging.getLogger(__name__)


def load_backend(folder: Path, config: dict[str, Any]) -> tokenizers.Tokenizer:
    """The tokenizer of a checkpoint folder, without truncation or padding.

    Reads tokenizer.json. Where that file is missing and transformers is installed, transformers converts the older
    formats, and a log line says so.

    Args:
        config: the content of tokenizer_config.json.
    Raises: ModelError when there is no tokenizer that can be used.
    """
    path = folder / "tokenizer.json"
    if path.is_file():
        try:
            backend = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise ModelError(f"{path} cannot be loaded", because=str(error),
                             try_="a newer `tokenizers`, or downloading the file again") from error  # fmt: skip
    else:
        backend = _convert(folder)
    backend.no_truncation()
    backend.no_padding()
    _add_missing_tokens(backend, config)
    return backend


def _convert(folder: Path) -> tokenizers.Tokenizer:
    if not folder.is_dir():
        raise ModelError(f"no folder {folder}", because="a tokenizer is read from a checkpoint's folder",
                         try_="the folder that holds tokenizer.json")  # fmt: skip
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise ModelError(
            f"no tokenizer.json in {folder}",
            because="Quire reads that format; converting others needs transformers, which is not installed",
            try_="`pip install transformers`, or a checkpoint that has tokenizer.json",
        ) from None
    try:
        converted = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # transformers raises many kinds for files it cannot read
        raise ModelError(f"no usable tokenizer in {folder}", because=str(error),
                         try_="a checkpoint that has tokenizer.json") from error  # fmt: skip
    backend = getattr(converted, "backend_tokenizer", None)
    if not isinstance(backend, tokenizers.Tokenizer):
        raise ModelError(
            f"{type(converted).__name__} of {folder} cannot be converted",
            because="transformers has it in pure Python only",
            try_="a checkpoint that has tokenizer.json",
        )
    logger.warning("no tokenizer.json in %s: transformers converted %s", folder, type(converted).__name__)
    return backend


def _add_missing_tokens(backend: tokenizers.Tokenizer, config: dict[str, Any]) -> None:
    """Adds tokens that only tokenizer_config.json names, in the order of their ids.

    Raises ModelError when one would get another id than the file says.
    """
    named = {int(token_id): token for token_id, token in config.get("added_tokens_decoder", {}).items()}
    for token_id, token in sorted(named.items()):
        if backend.token_to_id(token["content"]) is not None:
            continue
        flags = {name: bool(token.get(name, False)) for name in ("single_word", "lstrip", "rstrip", "special")}
        normalized = bool(token.get("normalized", not flags["special"]))
        added = tokenizers.AddedToken(token["content"], normalized=normalized, **flags)
        (backend.add_special_tokens if flags["special"] else backend.add_tokens)([added])
        if backend.token_to_id(token["content"]) != token_id:
            raise ModelError(
                f"token {token['content']!r} of tokenizer_config.json has id {token_id}",
                because=f"tokenizer.json does not know it and its next free id is another, "
                f"{backend.token_to_id(token['content'])}",
                try_="a tokenizer.json that belongs to this tokenizer_config.json",
            )
