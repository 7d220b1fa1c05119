"""Exercises with tools: choose the tool, copy the arguments, and read a tool's answer."""

from __future__ import annotations

import json
import random
from typing import Any

from .chat import TOOL_CALL, TOOL_CALL_END, TOOL_RESPONSE, TOOL_RESPONSE_END, Conversation
from .manual import manual
from .words import CITIES, NAMES, WORDS

# name, description, parameters (name, JSON type), ways to ask for it
_TOOLS: tuple[tuple[str, str, tuple[tuple[str, str], ...], tuple[str, ...]], ...] = (
    ("get_weather", "Get the weather of a city", (("city", "string"),),
     ("What is the weather in {city}?", "How is the weather in {city}?", "Weather in {city}?",
      "Is it raining in {city}?", "Tell me the weather in {city}.")),
    ("get_time", "Get the time in a city", (("city", "string"),),
     ("What time is it in {city}?", "Tell me the time in {city}.", "Time in {city}?")),
    ("add", "Add two numbers", (("a", "integer"), ("b", "integer")),
     ("Add {a} and {b}.", "What is {a} + {b}?", "Compute {a} + {b}.")),
    ("multiply", "Multiply two numbers", (("a", "integer"), ("b", "integer")),
     ("Multiply {a} and {b}.", "What is {a} * {b}?", "What is {a} times {b}?")),
    ("search", "Search for a text", (("query", "string"),),
     ("Search for {query}.", "Find {query}.", "Look up {query}.")),
    ("call_person", "Call a person", (("name", "string"),),
     ("Call {name}.", "Please call {name}.", "I want to talk to {name}.")),
    ("send_message", "Send a message to a person", (("name", "string"), ("text", "string")),
     ("Send {name} the message {text}.", "Write to {name}: {text}", "Tell {name}: {text}")),
    ("set_timer", "Set a timer", (("minutes", "integer"),),
     ("Set a timer for {minutes} minutes.", "Wake me in {minutes} minutes.", "Timer: {minutes} minutes")),
    ("play_music", "Play a song", (("song", "string"),),
     ("Play {song}.", "Play the song {song}.", "I want to hear {song}.")),
    ("buy_item", "Buy an item", (("item", "string"), ("count", "integer")),
     ("Buy {count} {item}.", "I need {count} {item}.", "Order {count} {item}.")),
)  # fmt: skip


def _schema(name: str, description: str, parameters: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    properties = {key: {"type": kind} for key, kind in parameters}
    body = {"type": "object", "properties": properties, "required": [key for key, _ in parameters]}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": body}}


def _value(rng: random.Random, key: str, kind: str) -> str | int:
    if kind == "integer":
        return rng.randrange(1, 100)
    if key == "city":
        return rng.choice(CITIES)
    if key == "name":
        return rng.choice(NAMES)
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, 3)))


def _call(name: str, arguments: dict[str, Any]) -> str:
    return f"{TOOL_CALL}\n{json.dumps({'name': name, 'arguments': arguments})}\n{TOOL_CALL_END}"


def _invented(rng: random.Random) -> tuple[str, str, tuple[tuple[str, str], ...], tuple[str, ...]]:
    """A tool that was never seen, so that the name is read from the prompt and not remembered."""
    verb, noun = rng.choice(("open", "find", "paint", "move", "make", "sell")), rng.choice(WORDS)
    key, kind = rng.choice((("color", "string"), ("place", "string"), ("number", "integer"), ("size", "integer")))
    says = (f"{verb.capitalize()} the {noun}: {{{key}}}", f"Please {verb} the {noun} with {key} {{{key}}}.")
    return f"{verb}_{noun}", f"{verb.capitalize()} the {noun}", ((key, kind),), says


def tool_call(rng: random.Random) -> Conversation:
    """One to two tools are offered and the question needs one of them, or (rarely) none."""
    offered = rng.sample(_TOOLS, rng.choice((1, 1, 2)))
    if rng.random() < 0.35:
        offered[rng.randrange(len(offered))] = _invented(rng)
    schemas = tuple(_schema(name, description, parameters) for name, description, parameters, _ in offered)
    if rng.random() < 0.12:
        return Conversation("manual_with_tools", manual(rng).turns, schemas)
    name, _, parameters, says = rng.choice(offered)
    arguments = {key: _value(rng, key, kind) for key, kind in parameters}
    return Conversation("tool_call", ((rng.choice(says).format(**arguments), _call(name, arguments)),), schemas)


def tool_answer(rng: random.Random) -> Conversation:
    """The tool has answered; the model says it in words."""
    city, kind = rng.choice(CITIES), rng.randrange(3)
    if kind == 0:
        degrees, sky = rng.randrange(-9, 40), rng.choice(("sunny", "cloudy", "rainy", "windy"))
        tool, arguments = _TOOLS[0], {"city": city}
        result, said = {"degrees": degrees, "sky": sky}, f"In {city} it is {sky} and {degrees} degrees."
    elif kind == 1:
        time = f"{rng.randrange(24):02d}:{rng.randrange(60):02d}"
        tool, arguments = _TOOLS[1], {"city": city}
        result, said = {"time": time}, f"In {city} it is {time}."
    else:
        tool = rng.choice(_TOOLS[2:4])
        a, b = rng.randrange(1, 100), rng.randrange(1, 100)
        value = a + b if tool[0] == "add" else a * b
        tool, arguments, result, said = tool, {"a": a, "b": b}, {"result": value}, f"The result is {value}."
    question = rng.choice(tool[3]).format(**arguments)
    response = f"{TOOL_RESPONSE}\n{json.dumps(result)}\n{TOOL_RESPONSE_END}"
    return Conversation("tool_answer", ((question, _call(tool[0], arguments)), (response, said)), (_schema(*tool[:3]),))
