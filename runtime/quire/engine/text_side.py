"""What a front end needs of a model to read and write text; no weights, no graph, no device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from quire.engine.config import EngineConfig

if TYPE_CHECKING:
    from quire.tokenizer import Tokenizer


def load_text_side(config: EngineConfig) -> tuple[Tokenizer | None, dict[str, Any]]:
    """The tokenizer, None with skip_tokenizer_init, and the sampling defaults of generation_config.json.

    Raises: ModelError when the model cannot be found or its files are damaged.
    """
    from quire.tokenizer.generation_config import generation_defaults
    from quire.weights.hub import resolve_model

    folder = resolve_model(config.model, revision=config.revision)
    defaults = generation_defaults(folder)
    if config.skip_tokenizer_init:
        return None, defaults
    from quire.tokenizer import Tokenizer

    tokenizer_folder = resolve_model(config.tokenizer) if config.tokenizer else folder
    return Tokenizer.from_folder(tokenizer_folder, chat_template=config.chat_template), defaults
