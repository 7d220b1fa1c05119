"""A model's tokenizer: text to token ids and back, its special tokens and its chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from quire.errors import ModelError, RequestError
from quire.files import file_of, is_panic, read_json_object, reading
from quire.tokenizer.chat_template import ChatTemplate
from quire.tokenizer.generation_config import generation_end_tokens
from quire.tokenizer.loading import load_backend
from quire.tokenizer.token_bytes import TokenBytes

_NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class Tokenizer:
    """Text to token ids and back. Made by `Tokenizer.from_folder`; safe to share between threads.

    Decoding never "cleans up" spaces before punctuation, whatever tokenizer_config.json says, because a stream of
    text cannot take back what it has sent.

    Attributes:
        backend: the `tokenizers.Tokenizer` that does the work.
        chat_template: how conversations become prompts.
        special_tokens: "bos_token", "eos_token", ... -> text, those that the model has.
        bos_token_id, eos_token_id, pad_token_id: int, or None where the model has none.
        eos_token_ids: all tokens that end a text: the tokenizer's own first, then those that generation_config.json,
            or else config.json, adds.
        special_token_ids: tokens that `skip_special_tokens` leaves out.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        special_tokens: Mapping[str, str] | None = None,
        chat_template: ChatTemplate | None = None,
        eos_token_ids: Sequence[int] = (),
    ) -> None:
        self.backend = backend
        self.special_tokens = dict(special_tokens or {})
        self.chat_template = chat_template or ChatTemplate({})
        self.bos_token_id = self._id_of("bos_token")
        self.eos_token_id = self._id_of("eos_token")
        self.pad_token_id = self._id_of("pad_token")
        own = () if self.eos_token_id is None else (self.eos_token_id,)
        self.eos_token_ids = tuple(dict.fromkeys((*own, *eos_token_ids)))
        if self.eos_token_id is None and self.eos_token_ids:
            self.eos_token_id = self.eos_token_ids[0]
        added = backend.get_added_tokens_decoder()
        self.special_token_ids = frozenset(token_id for token_id, token in added.items() if token.special)
        self.token_bytes = TokenBytes(backend)

    @classmethod
    def from_folder(cls, path: str | Path, *, chat_template: str | Path | None = None) -> Tokenizer:
        """The tokenizer of a checkpoint folder.

        Args:
            chat_template: a Jinja template, or a file that holds one, instead of the folder's own.
        Raises: ModelError when files are missing or damaged.
        """
        folder = Path(path)
        config = read_json_object(file_of(folder, "tokenizer_config.json"))
        backend = load_backend(folder, config)
        special_tokens = _special_tokens(folder, config, read_json_object(file_of(folder, "special_tokens_map.json")))
        template = ChatTemplate.from_folder(folder, config, special_tokens, override=chat_template)
        eos_token_ids = [_id_of_end(token, backend, folder) for token in generation_end_tokens(folder)]
        with reading(folder / "tokenizer.json"):
            return cls(backend, special_tokens=special_tokens, chat_template=template, eos_token_ids=eos_token_ids)

    @cached_property
    def vocab_size(self) -> int:
        """Largest token id + 1; a model's logits may be wider."""
        return max(self.backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    @cached_property
    def longest_token_chars(self) -> int:
        """Characters of the longest token, as the vocabulary writes it; at least 1."""
        return max(map(len, self.backend.get_vocab(with_added_tokens=True)), default=1)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text. `add_special_tokens` adds what tokenizer.json's post-processor says, such as bos.

        Raises: RequestError when the text holds half a surrogate pair, which no encoding of Unicode allows, or the
            tokenizer breaks down over it.
        """
        try:
            return list(self.backend.encode(text, add_special_tokens=add_special_tokens).ids)
        except TypeError:
            raise RequestError(
                "the text cannot be encoded",
                because="it holds half of a UTF-16 surrogate pair" if isinstance(text, str) else "it is not a string",
                hint="text that is valid Unicode",
                param="prompt",
            ) from None
        except BaseException as error:  # the library panics in Rust, which is no Exception, or raises a bare one
            if not isinstance(error, Exception) and not is_panic(error):
                raise
            raise RequestError(
                "the tokenizer breaks down over this text",
                because=str(error),
                hint="another text; the model's tokenizer may be damaged",
                param="prompt",
            ) from error

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of token ids; ids without a token stand for nothing, bytes that are no UTF-8 become U+FFFD."""
        return self.backend.decode(list(token_ids), skip_special_tokens=skip_special_tokens)

    def token_text(self, token_id: int) -> str:
        """One token as text inside a text, leading space included; for lists of log-probabilities."""
        return self.token_bytes[token_id].decode("utf-8", errors="replace")

    @property
    def has_chat_template(self) -> bool:
        return bool(self.chat_template.templates)

    def apply_chat_template(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> str:
        """The prompt of a conversation; options as `ChatTemplate.render`.

        The template writes all special tokens: encode the prompt with add_special_tokens=False.
        Raises: RequestError when the model has no chat template, or it refuses the conversation.
        """
        return self.chat_template.render(messages, **options)

    def _id_of(self, name: str) -> int | None:
        token = self.special_tokens.get(name)
        return None if token is None else self.backend.token_to_id(token)


def _id_of_end(token: int | str, backend: tokenizers.Tokenizer, folder: Path) -> int:
    """The id of a token that ends a text, given by its id or its text."""
    if isinstance(token, int):
        return token
    token_id = backend.token_to_id(token)
    if token_id is None:
        raise ModelError(
            f"{folder}: eos_token_id={token[:100]!r}",
            because="the vocabulary has no such token",
            hint="mending generation_config.json or config.json",
        )
    return token_id


def _special_tokens(folder: Path, *sources: Mapping[str, Any]) -> dict[str, str]:
    """The named special tokens; earlier files win. A token is a string or an object with its content, null is none."""
    found: dict[str, str] = {}
    for source in sources:
        for name in _NAMED_TOKENS:
            token = source.get(name)
            text = token.get("content") if isinstance(token, Mapping) else token
            if isinstance(text, str):
                found.setdefault(name, text)
            elif text is not None:
                raise ModelError(
                    f"{folder}: {name}={token!r:.100} of its tokenizer",
                    because="a text, or an object with its content, is expected there",
                    hint="mending tokenizer_config.json or special_tokens_map.json",
                )
    return found
