"""Conversations to prompts, by the Jinja template that a model was trained with.

Templates come with checkpoints and are not trusted: they run in Jinja's immutable sandbox. What they see (functions,
filters, special tokens, the clean-up of messages) is what transformers' `apply_chat_template` shows them, so that
prompts are equal to the character.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quire.errors import ModelError, RequestError
from quire.field_ranges import check_depth
from quire.files import file_of, optional_file_of, read_json_object, read_text
from quire.tokenizer.chat_messages import prepare_messages, prepare_objects

if TYPE_CHECKING:
    from quire.tokenizer.jinja import CompiledTemplate

_MORE = "additional_chat_templates"
MOST_TEMPLATE_BYTES = 2**18
"""Ten times the longest published one."""

_CONTINUE_MARK = "<<<continued from here>>> "
"""Put after the message to continue, to find it in the prompt; its last space shows whether a template strips."""


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """The chat templates of one model.

    Attributes:
        templates: name -> Jinja source; a model with one template calls it "default". Empty = no template.
        special_tokens: "bos_token", "eos_token", ... -> text; variables of every template.
    """

    templates: Mapping[str, str]
    special_tokens: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        for name, text in self.templates.items():
            if len(text) > MOST_TEMPLATE_BYTES:
                raise ModelError(
                    f"the chat template {name[:100]!r} has {len(text)} characters",
                    because=f"at most {MOST_TEMPLATE_BYTES} are read: longer ones take minutes to compile",
                    hint="another chat template: --chat-template FILE",
                )

    @classmethod
    def from_folder(
        cls,
        folder: Path,
        config: Mapping[str, Any],
        special_tokens: Mapping[str, str],
        *,
        override: str | Path | None = None,
    ) -> ChatTemplate:
        """The templates of a checkpoint folder.

        chat_template.jinja and additional_chat_templates/*.jinja come first, then chat_template.json, then the
        "chat_template" of tokenizer_config.json, one text or a list of named ones.

        Args:
            config: the content of tokenizer_config.json.
            override: used instead of all these: a Jinja text, or a file that holds one.
        Raises: ModelError when a template is none.
        """
        templates = _override(override) if override is not None else _templates_of(folder, config)
        return cls(templates, special_tokens)

    @classmethod
    def from_texts(
        cls, templates: Mapping[str, str], special_tokens: Mapping[str, str], *, override: str | Path | None = None
    ) -> ChatTemplate:
        """Templates by name, or instead of them `override`: a Jinja text, or a file that holds one."""
        return cls(templates if override is None else _override(override), special_tokens)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.templates)

    def source(self, *, name: str | None = None, has_tools: bool = False) -> str:
        """The Jinja text that applies. Without a name: "tool_use" for requests with tools where there is one.

        Raises: RequestError when the model has no such template.
        """
        if name is None:
            name = "tool_use" if has_tools and "tool_use" in self.templates else "default"
        if name not in self.templates:
            if not self.templates:
                raise RequestError(
                    "the model has no chat template",
                    because="its folder brings none",
                    hint="--chat-template FILE when starting, or plain completions",
                    param="messages",
                )
            raise RequestError(
                f"no chat template {name!r}",
                because=f"the model has {', '.join(self.names)}",
                hint="one of those",
                param="chat_template",
            )
        return self.templates[name]

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        /,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        template_name: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        **variables: Any,
    ) -> str:
        """The prompt of a conversation, all special tokens written out.

        Args:
            messages: as the OpenAI API has them; see `prepare_messages` for what becomes of their content.
            tools: JSON schemas of functions. documents: for templates that quote sources.
            add_generation_prompt: end with the beginning of an answer.
            continue_final_message: end inside the last message, for the model to go on with it; needs
                add_generation_prompt=False.
            chat_template_kwargs, variables: further variables for the template, such as enable_thinking. A client's
                go into the first, where a name that is an argument here is refused and not mistaken for it.
        Raises: RequestError when there is no template, or it refuses the conversation.
        """
        if continue_final_message and add_generation_prompt:
            raise RequestError(
                "continue_final_message with add_generation_prompt",
                because="one goes on with the last message, the other begins a new one",
                hint="setting one of them to false",
                param="continue_final_message",
            )
        compiled = _compiled(self.source(name=template_name, has_tools=tools is not None))
        chat = prepare_messages(messages, wants_parts=compiled.wants_parts, takes_strings=compiled.takes_strings)
        final = _mark_final_message(chat) if continue_final_message else ""
        if not isinstance(chat_template_kwargs or {}, Mapping):
            raise RequestError(
                "chat_template_kwargs is no object",
                because="variables of a template have names",
                hint='{"enable_thinking": false}',
                param="chat_template_kwargs",
            )
        check_depth("chat_template_kwargs", chat_template_kwargs)
        given = {**variables, **(chat_template_kwargs or {})}
        fixed = {
            "messages": chat,
            "tools": prepare_objects("tools", tools),
            "documents": prepare_objects("documents", documents),
            "add_generation_prompt": add_generation_prompt,
        }
        if taken := sorted(fixed.keys() & given.keys()):
            raise RequestError(
                f"chat_template_kwargs sets {', '.join(taken)}",
                because="the request has fields for these",
                hint="the field of that name",
                param="chat_template_kwargs",
            )
        prompt = compiled.render({**(self.special_tokens or {}), **given, **fixed})
        return _until_mark(prompt, final) if continue_final_message else prompt


@lru_cache(maxsize=64)
def _compiled(source: str) -> CompiledTemplate:
    from quire.tokenizer.jinja import CompiledTemplate  # jinja2 loads with the first conversation

    return CompiledTemplate(source)


def _override(given: str | Path) -> dict[str, str]:
    """A template given by hand. A text with Jinja's braces is a template; anything else names a file."""
    if isinstance(given, str) and re.search(r"{[{%#]", given):
        return {"default": given}
    try:
        return {"default": Path(given).read_text(encoding="utf-8")}
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(
            f"chat template {given} cannot be read",
            because=str(error),
            hint="a file that holds a Jinja template, or the template itself",
        ) from error


def _templates_of(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    names = {path.stem: f"{_MORE}/{path.name}" for path in sorted((folder / _MORE).glob("*.jinja"))}
    found = {name: optional_file_of(folder, file) for name, file in {"default": "chat_template.jinja", **names}.items()}
    templates = {name: read_text(path, MOST_TEMPLATE_BYTES) for name, path in found.items() if path is not None}
    if templates:
        return templates
    older = file_of(folder, "chat_template.json")
    given = read_json_object(older).get("chat_template")
    return _named(older, given) if given else _named(folder / "tokenizer_config.json", config.get("chat_template"))


def _named(file: Path, given: Any) -> dict[str, str]:
    """Templates by name, of a "chat_template": nothing, a text, a list of named texts, or an object of them."""
    if given is None:
        return {}
    entries: list[Any] = (
        [{"name": "default", "template": given}]
        if isinstance(given, str)
        else [{"name": name, "template": text} for name, text in given.items()]
        if isinstance(given, Mapping)
        else given
    )
    if isinstance(entries, list) and all(
        isinstance(entry, Mapping) and isinstance(entry.get("name"), str) and isinstance(entry.get("template"), str)
        for entry in entries
    ):
        return {entry["name"]: entry["template"] for entry in entries}
    raise ModelError(
        f"{file}: chat_template is malformed",
        because="it is neither a text nor a list of objects with name and template, both texts",
        hint="mending the file",
    )


def _mark_final_message(chat: list[dict[str, Any]]) -> str:
    """Puts the mark after the last message's last text; returns that text."""
    content = chat[-1].get("content")
    if isinstance(content, str):
        chat[-1]["content"] = content + _CONTINUE_MARK
        return content
    for part in reversed(content or []):
        if "text" in part:
            text: str = part["text"]
            part["text"] = text + _CONTINUE_MARK
            return text
    raise RequestError(
        "continue_final_message without a text to continue",
        because="the last message has no text",
        hint="a last message with content",
        param="messages",
    )


def _until_mark(prompt: str, final: str) -> str:
    """The prompt up to the mark; if the template stripped the message's end, stripped there too."""
    position = prompt.rfind(_CONTINUE_MARK.strip())
    if position < 0 or final.strip() not in prompt:
        raise RequestError(
            "continue_final_message is not possible here",
            because="the chat template leaves out or changes the last message",
            hint="add_generation_prompt instead",
            param="continue_final_message",
        )
    begun = prompt[:position]
    return begun if prompt.startswith(_CONTINUE_MARK, position) else begun.rstrip()
