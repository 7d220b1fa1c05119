"""A talk at the terminal: reads a message, obeys or answers it, remembers, until the end."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from quire.cli.chat.commands import find_command
from quire.cli.chat.conversation import Conversation
from quire.cli.chat.line_input import LineInput
from quire.cli.chat.settings import Settings
from quire.cli.streaming import say_if_cut, stream_text
from quire.errors import QuireError
from quire.outputs import RequestOutput

if TYPE_CHECKING:
    from quire.engine.llm_engine import LLMEngine

LEAVE = "/exit or Ctrl-D leaves"
WELCOME = f"/help lists the commands, {LEAVE}, Ctrl-C stops an answer"


def say(text: str) -> None:
    """A word to the person; answers alone go to standard output."""
    print(text, file=sys.stderr)


def one_line(error: QuireError) -> str:
    """What a wrong line is answered with."""
    because, hint = error.because and f": {error.because}", error.hint and f" (try {error.hint})"
    return f"error: {error.what}{because}{hint}".replace("\n", " ")


class Session:
    """One conversation with one engine. Commands change `conversation` and `settings`; `last` is for /stats."""

    def __init__(self, engine: LLMEngine, model: str, conversation: Conversation, settings: Settings) -> None:
        self.engine = engine
        self.conversation, self.settings = conversation, settings
        self.last: RequestOutput | None = None
        self._input = LineInput()
        self._model = model

    def talk(self) -> None:
        """Until /exit or the end of input. What goes wrong is one message, and the next line is read."""
        say(f"{self._model}: {WELCOME}")
        is_over = False
        while not is_over:
            try:
                is_over = self._turn()
            except KeyboardInterrupt:
                if not self._input.is_terminal:
                    raise

    def _turn(self) -> bool:
        """One message or command; true where the talk is over."""
        self.engine.abort_all()  # what a Ctrl-C, or one more in the middle of its handling, left of the turn before
        try:
            text = self._input.read()
        except KeyboardInterrupt:
            if not self._input.is_terminal:
                raise
            say(f"\n({LEAVE})")
            return False
        except QuireError as error:
            say(one_line(error))
            return False
        if text is None:
            if self._input.is_terminal:
                say("")
            return True
        try:
            return self._take(text)
        except KeyboardInterrupt:
            say(f"\n(stopped; the conversation is as it was; {LEAVE})")
        except QuireError as error:
            say(one_line(error))
        return False

    def _take(self, text: str) -> bool:
        """Obeys a command or answers; true where the talk is over."""
        if not text.startswith("/"):
            if text.strip():
                self.answer(text.strip())
            return False
        command, words = find_command(text)
        return command.action(self, words)

    def answer(self, question: str) -> None:
        """Prints the answer and remembers both; a question that cannot be answered is forgotten. Raises QuireError."""
        prompt = self.engine.render_chat(self.conversation.messages(question))
        params = self.settings.params
        try:
            answer = stream_text(self.engine, prompt, params, add_special_tokens=False)
        except QuireError as error:
            if len(self.conversation) and getattr(error, "param", None) == "prompt":
                say("the conversation may be too long: /clear forgets it")
            raise
        self.last = answer.output
        self.conversation.add(question, answer.output.outputs[0].text)
        say_if_cut(answer.output, params, self.max_model_len, way_out="--max-tokens; /set max_tokens N, 0 = no cap")

    @property
    def max_model_len(self) -> int:
        return self.engine.loaded.limits.max_model_len

    def num_context_tokens(self) -> int:
        """Tokens of the conversation so far, as the model would read it."""
        messages = self.conversation.messages()
        if not messages or self.engine.tokenizer is None:
            return 0
        text = self.engine.render_chat(messages, add_generation_prompt=False)
        return len(self.engine.tokenizer.encode(text, add_special_tokens=False))
