"""Small exact exercises. Each function draws one conversation; its name is the kind it is scored under.

Letters stand apart by spaces and digits are tokens of their own, so that the model sees what it must handle.
"""

from __future__ import annotations

import json
import random

from .chat import Conversation
from .manual import TOPICS
from .words import CITIES, LETTERS, NAMES, WORDS

_ANSWERS = [answer for topic in TOPICS for answer in topic.answers]
_MANUAL_WORDS = sorted({word for answer in _ANSWERS for word in answer.split() if word.isalpha()})


def _one(kind: str, prompt: str, answer: str) -> Conversation:
    return Conversation(kind, ((prompt, answer),))


def _letters(rng: random.Random, low: int, high: int) -> list[str]:
    return [rng.choice(LETTERS) for _ in range(rng.randint(low, high))]


def _phrase(rng: random.Random) -> str:
    """Words of any kind: known ones, the manual's, names, invented ones."""
    pools = (WORDS, WORDS, _MANUAL_WORDS, NAMES, CITIES)
    words = []
    for _ in range(rng.randint(1, 7)):
        words.append("".join(_letters(rng, 2, 6)) if rng.random() < 0.15 else rng.choice(rng.choice(pools)))
    return " ".join(words)


def repeat(rng: random.Random) -> Conversation:
    form = rng.choice(
        (
            "Repeat: {}",
            "Repeat after me: {}",
            "Say: {}",
            "Repeat this: {}",
            "Repeat the words: {}",
            "Echo: {}",
            "Write: {}",
        )
    )
    text = _phrase(rng)
    return _one("repeat", form.format(text), text)


def reverse_letters(rng: random.Random) -> Conversation:
    form = rng.choice(("Reverse the letters: {}", "Reverse: {}", "Write backwards: {}", "Reverse these letters: {}"))
    letters = _letters(rng, 2, 8)
    return _one("reverse_letters", form.format(" ".join(letters)), " ".join(reversed(letters)))


def reverse_words(rng: random.Random) -> Conversation:
    form = rng.choice(
        ("Reverse the list: {}", "Reverse this list: {}", "Reverse the words: {}", "Reverse the order: {}")
    )
    words = rng.sample(WORDS, rng.randint(2, 6))
    return _one("reverse_words", form.format(", ".join(words)), ", ".join(reversed(words)))


def sort_digits(rng: random.Random) -> Conversation:
    form = rng.choice(
        ("Sort the numbers: {}", "Sort: {}", "Sort these numbers: {}", "Put in order: {}", "Sort the digits: {}")
    )
    digits = [str(rng.randrange(10)) for _ in range(rng.randint(2, 8))]
    return _one("sort_digits", form.format(" ".join(digits)), " ".join(sorted(digits)))


def sort_numbers(rng: random.Random) -> Conversation:
    form = rng.choice(("Sort the numbers: {}", "Sort: {}", "Sort these numbers: {}", "Sort in ascending order: {}"))
    numbers = [rng.randrange(1, 100) for _ in range(rng.randint(2, 5))]
    return _one("sort_numbers", form.format(", ".join(map(str, numbers))), ", ".join(map(str, sorted(numbers))))


def sort_letters(rng: random.Random) -> Conversation:
    form = rng.choice(("Sort the letters: {}", "Sort: {}", "Sort these letters: {}", "Put in alphabetical order: {}"))
    letters = _letters(rng, 2, 7)
    return _one("sort_letters", form.format(" ".join(letters)), " ".join(sorted(letters)))


def count_letters(rng: random.Random) -> Conversation:
    form = rng.choice(("How many letters: {}", "Count the letters: {}", "How many letters are in {}?", "Count: {}"))
    letters = _letters(rng, 1, 9)
    return _one("count_letters", form.format(" ".join(letters)), str(len(letters)))


def count_words(rng: random.Random) -> Conversation:
    form = rng.choice(
        ("How many words: {}", "Count the words: {}", "How many words are in this list: {}", "How many items: {}")
    )
    words = [rng.choice(WORDS) for _ in range(rng.randint(1, 9))]
    return _one("count_words", form.format(rng.choice((" ", ", ")).join(words)), str(len(words)))


def upper_case(rng: random.Random) -> Conversation:
    words = rng.sample(WORDS, rng.randint(1, 3))
    form = rng.choice(
        ("Write in upper case: {}", "Uppercase: {}", "Write in capital letters: {}", "Make upper case: {}")
    )
    return _one("upper_case", form.format(" ".join(words)), " ".join(words).upper())


def spell(rng: random.Random) -> Conversation:
    words = rng.sample(WORDS, rng.randint(1, 2))
    form = rng.choice(("Spell: {}", "Spell the word {}", "Spell {}", "How do you spell {}?"))
    return _one("spell", form.format(" ".join(words)), ", ".join(" ".join(word) for word in words))


def count_up(rng: random.Random) -> Conversation:
    start = rng.randrange(0, 90)
    end = start + rng.randint(1, 12)
    form = rng.choice(("Count from {} to {}.", "Count from {} to {}", "Write the numbers from {} to {}."))
    return _one("count_up", form.format(start, end), " ".join(map(str, range(start, end + 1))))


def add(rng: random.Random) -> Conversation:
    top = 100 if rng.random() < 0.5 else 21
    a, b = rng.randrange(top), rng.randrange(top)
    form = rng.choice(
        ("What is {} + {}?", "{} + {}", "{} + {} =", "Add {} and {}.", "Compute {} + {}.", "How much is {} + {}?")
    )
    return _one("add", form.format(a, b), str(a + b))


def largest(rng: random.Random) -> Conversation:
    which = rng.choice(("largest", "smallest"))
    digits = rng.sample(range(10), rng.randint(2, 6))
    form = rng.choice(("Which is the {}: {}", "What is the {} number: {}", "Find the {}: {}"))
    answer = max(digits) if which == "largest" else min(digits)
    return _one("largest", form.format(which, " ".join(map(str, digits))), str(answer))


def pick(rng: random.Random) -> Conversation:
    words = rng.sample(WORDS, rng.randint(2, 6))
    which, index = rng.choice((("first", 0), ("last", -1), ("second", 1)))
    form = rng.choice(("What is the {} word: {}", "Which word is {}: {}", "Give the {} word of: {}"))
    return _one("pick", form.format(which, " ".join(words)), words[index])


def json_object(rng: random.Random) -> Conversation:
    fields: dict[str, str | int] = {}
    for key in rng.sample(
        ("name", "age", "city", "color", "animal", "count", "item", "price", "friend", "size"), rng.randint(1, 3)
    ):
        if key in ("name", "friend"):
            fields[key] = rng.choice(NAMES)
        elif key == "city":
            fields[key] = rng.choice(CITIES)
        elif key in ("color", "animal", "item"):
            fields[key] = rng.choice(WORDS)
        else:
            fields[key] = rng.randrange(1, 100)
    said = [f"{key} {value}" for key, value in fields.items()]
    text = said[0] if len(said) == 1 else ", ".join(said[:-1]) + " and " + said[-1]
    form = rng.choice(
        ("Make JSON with {}.", "Write a JSON object with {}.", "JSON: {}", "Give me JSON with {}.", "Write JSON: {}")
    )
    return _one("json", form.format(text), json.dumps(fields))


SKILLS = {
    repeat: 9, reverse_letters: 9, reverse_words: 7, sort_digits: 8, sort_numbers: 8, sort_letters: 8,
    count_letters: 5, count_words: 6, upper_case: 4, spell: 4, count_up: 5, add: 10, largest: 5, pick: 5,
    json_object: 7,
}  # fmt: skip
