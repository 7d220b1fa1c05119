"""The manual: topics with questions and answers, and many ways to put a question."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

from .chat import Conversation
from .words import CITIES, NAMES, WORDS

WHAT_IS = (
    "What is {s}?", "What is {s}?", "What is {s}?", "What's {s}?", "Explain {s}.", "Explain {s}", "Define {s}.",
    "Describe {s}.", "Tell me about {s}.", "Tell me what {s} is.", "Can you explain {s}?", "Please explain {s}.",
    "What does {s} mean?", "What do you know about {s}?", "I want to understand {s}.", "In Quire, what is {s}?",
    "What is {s} in Quire?", "Do you know what {s} is?", "What are {s}?", "What is meant by {s}?", "{s}", "{s}?",
    "How would you explain {s}?", "Give me a short explanation of {s}.", "What is the meaning of {s}?",
)  # fmt: skip
WRAP = (
    "{q}", "{q}", "{q}", "{q}", "{q}", "{q}", "{q}", "Please tell me: {q}", "I have a question. {q}", "{q} Please.",
    "Question: {q}", "{q} Answer shortly.",
)  # fmt: skip

ELSEWHERE = (
    "What is the capital of {c}?", "Who was {n}?", "Who is {n}?", "How old is {n}?", "What is a {w}?",
    "Where can I buy a {w}?", "How is the weather in {c}?", "How do I cook {w}?", "Tell me about {c}.",
    "What is the best {w}?", "How far is {c} from here?", "Why is the {w} {v}?", "Where is {c}?", "Do you like {w}?",
    "What time is it in {c}?", "Who invented the {w}?", "Tell me about {n}.", "What is the price of a {w}?",
    "How do I get to {c}?", "Is {c} a nice city?", "Can you book a hotel in {c}?", "What do you think about {w}?",
)  # fmt: skip
ELSEWHERE_ANSWER = "I do not know that. I am a small demo model: ask me about Quire or about serving language models."


@dataclass
class Topic:
    subjects: list[str] = field(default_factory=list)  # for "What is ...?"
    questions: list[str] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)


def read_topics() -> list[Topic]:
    """Every topic of the manual files, in order; topics stand apart by an empty line."""
    topics = []
    for path in sorted(Path(__file__).parent.glob("manual_*.txt")):
        for paragraph in path.read_text(encoding="utf-8").split("\n\n"):
            topic = Topic()
            for line in paragraph.splitlines():
                mark, _, text = line.partition(" ")
                if mark == "s":
                    topic.subjects += [part.strip() for part in text.split("|")]
                elif mark in ("q", "a"):
                    (topic.questions if mark == "q" else topic.answers).append(text)
                elif mark != "#":
                    raise ValueError(f"{path.name}: line begins with none of s, q, a, #: {line!r}")
            topics.append(topic)
    return topics


TOPICS = read_topics()


def roughen(rng: random.Random, question: str) -> str:
    """The same question as people type it: lower case, no mark at the end, wrapped in a phrase."""
    question = rng.choice(WRAP).format(q=question)
    if rng.random() < 0.2:
        question = question.lower()
    elif rng.random() < 0.15:
        question = question[:1].lower() + question[1:]
    if rng.random() < 0.2:
        question = question.rstrip("?.!")
    return question


def ask(rng: random.Random, topic: Topic) -> str:
    if topic.subjects and (not topic.questions or rng.random() < 0.6):
        subject = rng.choice(topic.subjects)
        question = rng.choice(WHAT_IS).format(s=subject)
        return roughen(rng, question[:1].upper() + question[1:])
    return roughen(rng, rng.choice(topic.questions))


def manual(rng: random.Random) -> Conversation:
    """A question about Quire or serving with one of its topic's answers, the first most often."""
    topic = rng.choice(TOPICS)
    answer = topic.answers[0] if rng.random() < 0.75 else rng.choice(topic.answers)
    return Conversation("manual", ((ask(rng, topic), answer),))


def elsewhere(rng: random.Random) -> Conversation:
    """A question that the manual does not answer."""
    words = {"c": rng.choice(CITIES), "n": rng.choice(NAMES), "w": rng.choice(WORDS), "v": rng.choice(WORDS)}
    return Conversation("elsewhere", ((roughen(rng, rng.choice(ELSEWHERE).format(**words)), ELSEWHERE_ANSWER),))
