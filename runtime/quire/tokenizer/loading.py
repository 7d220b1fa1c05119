"""A folder's tokenizer as a `tokenizers.Tokenizer`, whatever files it came in."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import tokenizers

from quire.errors import ModelError
from quire.files import MOST_TEXT_BYTES, file_of, optional_file_of, read_bytes, reading
from quire.tokenizer.growth import check_growth

logger = logging.getLogger(__name__)

_TOKENIZER_SUFFIXES = (".json", ".model", ".tiktoken", ".txt", ".vocab")
_TRIAL_TEXT = "Hello, world: 1 + 1 \u00e9\u4e16\U0001f642\n"


def load_backend(folder: Path, config: dict[str, Any]) -> tokenizers.Tokenizer:
    """The tokenizer of a checkpoint folder, without truncation or padding.

    Reads tokenizer.json. Where that file is missing and transformers is installed, transformers converts the older
    formats, and a log line says so.

    Args:
        config: the content of tokenizer_config.json.
    Raises: ModelError when there is no tokenizer that can be used.
    """
    path = optional_file_of(folder, "tokenizer.json")
    backend = _convert(folder) if path is None else backend_of_json(read_bytes(path), str(path))
    _add_missing_tokens(backend, config, folder / "tokenizer_config.json")
    return backend


def backend_of_json(content: bytes, where: str) -> tokenizers.Tokenizer:
    """The tokenizer of a tokenizer.json, without truncation or padding; errors call it `where`.

    It is tried on a short text: some descriptions can be loaded and make the library panic when they are used.
    Raises ModelError.
    """
    with reading(where):
        backend = tokenizers.Tokenizer.from_buffer(content)
        backend.no_truncation()
        backend.no_padding()
        check_growth(backend, where)
        backend.decode(backend.encode(_TRIAL_TEXT).ids, skip_special_tokens=False)
    return backend


def _convert(folder: Path) -> tokenizers.Tokenizer:
    if not folder.is_dir():
        raise ModelError(
            f"no folder {folder}",
            because="a tokenizer is read from a checkpoint's folder",
            hint="the folder that holds tokenizer.json",
        )
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise ModelError(
            f"no tokenizer.json in {folder}",
            because="Quire reads that format; converting others needs transformers, which is not installed",
            hint="`pip install transformers`, or a checkpoint that has tokenizer.json",
        ) from None
    _check_files(folder)
    try:
        converted = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises many kinds for files it cannot read
        raise ModelError(
            f"no usable tokenizer in {folder}", because=str(error), hint="a checkpoint that has tokenizer.json"
        ) from error
    backend = getattr(converted, "backend_tokenizer", None)
    if not isinstance(backend, tokenizers.Tokenizer):
        raise ModelError(
            f"{type(converted).__name__} of {folder} cannot be converted",
            because="transformers has it in pure Python only",
            hint="a checkpoint that has tokenizer.json",
        )
    logger.warning("no tokenizer.json in %s: transformers converted %s", folder, type(converted).__name__)
    return backend


def _check_files(folder: Path) -> None:
    """Refuses a folder with files that `open_regular` would not open: transformers would wait for a pipe for ever."""
    for path in folder.iterdir():
        target = file_of(folder, path.name)
        if target.is_dir():
            continue
        if not target.is_file():
            raise ModelError(
                f"{path} is not a file",
                because="it is a pipe, a device or a link to nothing",
                hint="downloading the model again",
            )
        if path.suffix in _TOKENIZER_SUFFIXES and target.stat().st_size > MOST_TEXT_BYTES:
            raise ModelError(
                f"{path} has {target.stat().st_size} bytes",
                because=f"files of its kind are read up to {MOST_TEXT_BYTES}",
                hint="downloading the file again",
            )


def _named_tokens(config: dict[str, Any], file: Path) -> dict[int, dict[str, Any]]:
    """`added_tokens_decoder` of tokenizer_config.json: id -> token. Raises ModelError for another shape."""
    entries = config.get("added_tokens_decoder") or {}
    if not isinstance(entries, dict):
        raise ModelError(
            f"{file}: added_tokens_decoder is a {type(entries).__name__}",
            because="an object of tokens by id is expected there",
            hint="downloading the file again",
        )
    for token_id, token in entries.items():
        is_token = isinstance(token, dict) and isinstance(token.get("content"), str) and token["content"]
        if not is_token or not (token_id.isascii() and token_id.isdigit() and len(token_id) < 10):
            raise ModelError(
                f"{file}: added_tokens_decoder has an entry {token_id[:100]!r}",
                because="an id and an object with a token's content are expected there",
                hint="downloading the file again",
            )
    return {int(token_id): token for token_id, token in entries.items()}


def _add_missing_tokens(backend: tokenizers.Tokenizer, config: dict[str, Any], file: Path) -> None:
    """Adds tokens that only tokenizer_config.json names, in the order of their ids.

    Raises ModelError when one would get another id than the file says.
    """
    for token_id, token in sorted(_named_tokens(config, file).items()):
        if backend.token_to_id(token["content"]) is not None:
            continue
        flags = {name: bool(token.get(name, False)) for name in ("single_word", "lstrip", "rstrip", "special")}
        normalized = bool(token.get("normalized", not flags["special"]))
        added = tokenizers.AddedToken(token["content"], normalized=normalized, **flags)
        (backend.add_special_tokens if flags["special"] else backend.add_tokens)([added])
        if backend.token_to_id(token["content"]) != token_id:
            raise ModelError(
                f"{file}: token {token['content']!r:.100} has id {token_id}",
                because=f"tokenizer.json does not know it and its next free id is another, "
                f"{backend.token_to_id(token['content'])}",
                hint="a tokenizer.json that belongs to this tokenizer_config.json",
            )
