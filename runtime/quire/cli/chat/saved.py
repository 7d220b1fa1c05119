"""A conversation in a file: {"messages": [...], "settings": {...}}; the messages are those of the chat API."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

from quire.cli.chat.conversation import Conversation
from quire.cli.chat.settings import Settings
from quire.errors import QuireError, RequestError

_MOST_BYTES = 16 << 20


def save(path: Path, conversation: Conversation, settings: Settings, *, overwrite: bool) -> None:
    """Writes both. Raises: RequestError where the file exists and `overwrite` is false, or it cannot be written."""
    content = {"messages": conversation.messages(), "settings": settings.as_json()}
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    try:
        if not overwrite:
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
            return
        beside = path.with_name(path.name + ".part")
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, path)
    except FileExistsError as error:
        raise RequestError(f"{path} exists", hint=f"/save! {path} to write over it") from error
    except (OSError, ValueError) as error:
        raise RequestError(f"{path} cannot be written", because=_reason(error)) from error


def load(path: Path, settings: Settings) -> Conversation:
    """The conversation of a file; its settings, where it has any, are put into `settings`.

    Raises: RequestError where it cannot be read or holds something else; nothing is changed then.
    """
    try:
        content = json.loads(_read(path))
    except (OSError, ValueError, RecursionError) as error:
        raise RequestError(f"{path} cannot be read", because=_reason(error)) from error
    try:
        is_list = isinstance(content, list)
        conversation = Conversation.from_messages(
            content if is_list or not isinstance(content, dict) else content.get("messages")
        )
        values = {} if is_list else content.get("settings") or {}
        if not isinstance(values, dict):
            raise RequestError("its settings are no object")
        settings.update(values)
    except QuireError as error:
        raise RequestError(f"{path} is no conversation: {error.what}", because=error.because) from error
    return conversation


def _read(path: Path) -> str:
    """The text of a regular file of a decent size; a pipe or a device would never end."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("it is no regular file")
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise ValueError(f"it has more than {_MOST_BYTES >> 20} MiB")
    return content.decode("utf-8-sig")


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
