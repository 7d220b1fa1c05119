"""What a chat remembers. No terminal, no engine."""

from __future__ import annotations

from quire.errors import RequestError

Message = dict[str, str]

ROLES = ("system", "user", "assistant")


class Conversation:
    """Messages in order: a system message where there is one, then questions and answers in turn."""

    def __init__(self, system: str | None = None) -> None:
        self.system = system
        self._turns: list[Message] = []

    def messages(self, question: str | None = None) -> list[Message]:
        """All of them, with a question that has no answer yet at the end."""
        start = [{"role": "system", "content": self.system}] if self.system else []
        asked = [] if question is None else [{"role": "user", "content": question}]
        return [*start, *self._turns, *asked]

    def add(self, question: str, answer: str) -> None:
        """Remembers a question that was answered."""
        self._turns += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]

    def take_last(self) -> tuple[str, str] | None:
        """Forgets the last question and its answer and returns them; None where there is none."""
        if len(self._turns) < 2:
            return None
        question, answer = self._turns[-2]["content"], self._turns[-1]["content"]
        del self._turns[-2:]
        return question, answer

    def clear(self) -> None:
        """Forgets all but the system message."""
        self._turns.clear()

    def __len__(self) -> int:
        return len(self._turns)

    @classmethod
    def from_messages(cls, messages: object) -> Conversation:
        """The conversation of a list of {"role", "content"}. Raises: RequestError naming the first odd message."""
        if not isinstance(messages, list):
            raise RequestError("no list of messages", because='it is {"messages": [...]}, or the list alone')
        for place, message in enumerate(messages):
            if not isinstance(message, dict) or not isinstance(message.get("content"), str):
                raise _odd(place, 'it is not {"role": ..., "content": a text}')
            if message.get("role") not in ROLES:
                raise _odd(place, f"its role is not one of {', '.join(ROLES)}")
        has_system = bool(messages) and messages[0]["role"] == "system"
        conversation = cls(messages[0]["content"] if has_system else None)
        turns = messages[int(has_system) :]
        for place, message in enumerate(turns):
            if message["role"] != ("user", "assistant")[place % 2]:
                raise _odd(place + has_system, "user and assistant take turns, after one system message at most")
        if len(turns) % 2:
            raise _odd(len(messages) - 1, "the last question has no answer")
        conversation._turns = [{"role": turn["role"], "content": turn["content"]} for turn in turns]
        return conversation


def _odd(place: int, reason: str) -> RequestError:
    return RequestError(f"message {place + 1} cannot be read", because=reason)
