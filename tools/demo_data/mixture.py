"""The stream of training conversations: manual, exercises and tools in fixed shares."""

from __future__ import annotations

import random
from collections.abc import Iterator

from .chat import Conversation
from .manual import elsewhere, manual
from .skills import SKILLS
from .tools import tool_answer, tool_call


def draw_skill(rng: random.Random) -> Conversation:
    return rng.choices(list(SKILLS), weights=list(SKILLS.values()))[0](rng)


def draw(rng: random.Random) -> Conversation:
    """One conversation. Shares are of conversations; tools are long, so their share of tokens is larger."""
    where = rng.random()
    if where < 0.24:
        return manual(rng)
    if where < 0.26:
        return elsewhere(rng)
    if where < 0.90:
        return draw_skill(rng)
    if where < 0.96:
        first = manual(rng) if rng.random() < 0.5 else draw_skill(rng)
        second = manual(rng) if rng.random() < 0.5 else draw_skill(rng)
        return Conversation("two_turns", first.turns + second.turns)
    return tool_call(rng) if where < 0.993 else tool_answer(rng)


def stream(seed: int) -> Iterator[Conversation]:
    """Endless; the same seed gives the same conversations."""
    rng = random.Random(seed)
    while True:
        yield draw(rng)
