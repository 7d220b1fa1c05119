"""The stream of training conversations: manual, exercises and tools in fixed shares."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

from .chat import Conversation
from .manual import elsewhere, manual
from .skills import SKILLS
from .tools import tool_answer, tool_call

SYSTEM = (
    "You are a helpful assistant.", "You are a helpful assistant.", "You are a helpful assistant. Be brief.",
    "You are the demo model of Quire.", "Answer shortly.", "You are a friendly assistant that answers questions.",
)  # fmt: skip


def draw_skill(rng: random.Random) -> Conversation:
    skill = rng.choices(list(SKILLS), weights=list(SKILLS.values()))[0](rng)
    if rng.random() < 0.85:
        return skill
    ((user, answer),) = skill.turns
    return replace(skill, turns=((user[:1].lower() + user[1:], answer),))


def draw(rng: random.Random) -> Conversation:
    """One conversation, some of them after a system message."""
    conversation = draw_plain(rng)
    return conversation if rng.random() < 0.9 else replace(conversation, system=rng.choice(SYSTEM))


def draw_plain(rng: random.Random) -> Conversation:
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
