"""The commands of a chat, as data."""

from __future__ import annotations

import difflib
import os.path
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from quire.cli.chat import saved
from quire.errors import RequestError

if TYPE_CHECKING:
    from quire.cli.chat.session import Session


@dataclass(frozen=True, slots=True)
class Command:
    """One command: its names, what follows them, what it does; `action` says whether the talk is over."""

    names: tuple[str, ...]
    argument: str
    text: str
    action: Callable[[Session, str], bool]


def find_command(line: str) -> tuple[Command, str]:
    """The command of a line that begins with "/", and what follows it. Raises RequestError, naming the nearest one."""
    name, _, words = line[1:].partition(" ") if "\n" not in line.split(" ")[0] else line[1:].partition("\n")
    known = {name: command for command in COMMANDS for name in command.names}
    if name in known:
        return known[name], words.strip()
    near = difflib.get_close_matches(name[:100].lower(), list(known), n=1)
    raise RequestError(
        f"/{name[:100]} is no command",
        hint=f"/{near[0]}" if near else "/help; a message may begin with a blank and then a slash",
    )


def _say(text: str) -> bool:
    print(text, file=sys.stderr)
    return False


def _help(session: Session, words: str) -> bool:
    width = max(len(_usage(command)) for command in COMMANDS) + 2
    return _say(
        "\n".join(
            [
                *(f"{_usage(command):<{width}}{command.text}" for command in COMMANDS),
                'A line that ends with \\ goes on in the next one; """ begins and ends a block of lines.',
                "Ctrl-C stops an answer, or clears the line; Ctrl-D leaves.",
            ]
        )
    )


def _usage(command: Command) -> str:
    names = ", ".join(f"/{name}" for name in command.names)
    return f"{names} {command.argument}".rstrip()


def _system(session: Session, words: str) -> bool:
    if not words:
        return _say(session.conversation.system or "no system message")
    session.conversation.system = words
    return _say("the system message is set; the conversation goes on with it")


def _set(session: Session, words: str) -> bool:
    name, _, value = words.partition(" ")
    if not name:
        return _say("\n".join(session.settings.lines()))
    if not value.strip():
        raise RequestError(f"/set {name[:100]} has no value", hint=f"/set {name[:100]} VALUE, or /set for all of them")
    session.settings.set(name.replace("-", "_"), value.strip())
    return _say(next(line for line in session.settings.lines() if line.startswith(name.replace("-", "_"))))


def _stats(session: Session, words: str) -> bool:
    used = f"context: {session.num_context_tokens()} of {session.max_model_len} tokens"
    metrics = session.last.metrics if session.last is not None else None
    if session.last is None or metrics is None or metrics.first_token_s is None:
        return _say(f"no answer yet; {used}")
    num_tokens = len(session.last.outputs[0].token_ids)
    first_s = metrics.first_token_s - metrics.arrival_s
    decode_s = (metrics.finished_s or metrics.first_token_s) - metrics.first_token_s
    rate = f"{(num_tokens - 1) / decode_s:.1f} tokens/s" if decode_s > 0 and num_tokens > 1 else "no rate"
    return _say(
        f"last answer: {len(session.last.prompt_token_ids)} prompt tokens "
        f"({session.last.num_cached_tokens} cached), first token after {first_s:.3f} s; "
        f"{num_tokens} tokens, {rate}\n{used}"
    )


def _path(words: str, command: str) -> Path:
    if not words:
        raise RequestError(f"/{command} has no file name", hint=f"/{command} FILE")
    return Path(os.path.expanduser(words))


def _save(session: Session, words: str) -> bool:
    path = _path(words, "save")
    saved.save(path, session.conversation, session.settings, overwrite=False)
    return _say(f"saved to {path}")


def _save_over(session: Session, words: str) -> bool:
    path = _path(words, "save!")
    saved.save(path, session.conversation, session.settings, overwrite=True)
    return _say(f"saved to {path}")


def _load(session: Session, words: str) -> bool:
    session.conversation = saved.load(_path(words, "load"), session.settings)
    session.last = None
    return _say(f"{len(session.conversation) // 2} questions and answers")


def _regen(session: Session, words: str) -> bool:
    last = session.conversation.take_last()
    if last is None:
        raise RequestError("there is no answer to draw again")
    length = len(session.conversation)
    try:
        session.answer(last[0])
    finally:
        if len(session.conversation) == length:  # no new answer: the former one stays
            session.conversation.add(*last)
    return False


def _clear(session: Session, words: str) -> bool:
    session.conversation.clear()
    session.last = None
    return _say("the conversation is forgotten" + (", the system message stays" if session.conversation.system else ""))


def _exit(session: Session, words: str) -> bool:
    return True


COMMANDS = (
    Command(("help", "?"), "", "these lines", _help),
    Command(("system",), "TEXT", "set the system message; without TEXT: show it", _system),
    Command(("set",), "NAME VALUE", "set temperature ...; alone: list all; VALUE default: as at start", _set),
    Command(("stats",), "", "speed of the last answer, and how full the context is", _stats),
    Command(("save",), "FILE", "write the conversation and the settings as JSON", _save),
    Command(("save!",), "FILE", "the same over a file that exists", _save_over),
    Command(("load",), "FILE", "go on from such a file", _load),
    Command(("regen",), "", "answer the last question again", _regen),
    Command(("clear",), "", "forget the conversation", _clear),
    Command(("exit", "quit", "bye"), "", "leave", _exit),
)  # fmt: skip
