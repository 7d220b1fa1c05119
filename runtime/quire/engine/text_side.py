"""What a front end needs of a model to read and write text; no weights, no graph, no device."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quire.errors import ModelError
from quire.files import reading

if TYPE_CHECKING:
    from quire.engine.config import EngineConfig
    from quire.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class TextSource:
    """Where a tokenizer and its chat templates are read from: all that another process must know to read them too.

    Attributes:
        path: the checkpoint's folder, or its GGUF file. chat_template: instead of the model's own.
    """

    path: str
    is_gguf: bool
    chat_template: str | None

    def load(self) -> Tokenizer:
        """The tokenizer. Raises ModelError."""
        with reading(Path(self.path)):
            return _tokenizer_of(self)


def find_text_source(config: EngineConfig) -> TextSource:
    """Where the tokenizer of a model is. Raises ModelError when it cannot be found."""
    from quire.weights.formats.gguf import is_gguf
    from quire.weights.hub import resolve_model

    own = config.tokenizer
    path = resolve_model(own) if own else resolve_model(config.model, revision=config.revision)
    return TextSource(str(path), is_gguf(path), config.chat_template)


def load_text_side(config: EngineConfig) -> tuple[Tokenizer | None, dict[str, Any]]:
    """The tokenizer, None with skip_tokenizer_init, and the sampling defaults that the checkpoint suggests.

    Raises: ModelError when the model cannot be found, its architecture is not supported, or its files are damaged.
    """
    from quire.models import build_model, check_architecture
    from quire.weights.hub import resolve_model

    path = resolve_model(config.model, revision=config.revision)
    check_architecture(path)  # before the tokenizer: a folder that is no model often has none
    try:
        return _read_text_side(config, path)
    except ModelError:
        build_model(path)  # whatever else is wrong with the config is said first
        raise


def _read_text_side(config: EngineConfig, path: Path) -> tuple[Tokenizer | None, dict[str, Any]]:
    from quire.weights.formats.gguf import is_gguf
    from quire.weights.hub import resolve_model

    with reading(path):
        defaults = _defaults_of(path)
    if config.skip_tokenizer_init:
        return None, defaults
    own = resolve_model(config.tokenizer) if config.tokenizer else path
    return TextSource(str(own), is_gguf(own), config.chat_template).load(), defaults


def _defaults_of(path: Path) -> dict[str, Any]:
    from quire.tokenizer.generation_config import generation_defaults, sampling_defaults
    from quire.weights.formats.gguf import generation_config, is_gguf, open_gguf

    if is_gguf(path):
        return sampling_defaults(generation_config(open_gguf(path).metadata), str(path))
    return generation_defaults(path)


def _tokenizer_of(source: TextSource) -> Tokenizer:
    from quire.tokenizer import Tokenizer

    if not source.is_gguf:
        return Tokenizer.from_folder(source.path, chat_template=source.chat_template)
    from quire.tokenizer.gguf import gguf_tokenizer
    from quire.weights.formats.gguf import end_token_ids, named_token_ids, open_gguf

    metadata = open_gguf(Path(source.path)).metadata
    return gguf_tokenizer(
        metadata,
        special_ids=named_token_ids(metadata),
        eos_token_ids=end_token_ids(metadata),
        chat_template=source.chat_template,
        where=source.path,
    )
