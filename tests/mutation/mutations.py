"""Ways to damage a file, each told by a random generator: bytes, values of JSON, and the file as such."""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

INTEGERS = (0, -1, 1, 2, 7, 255, 2**31 - 1, 2**31, 2**32, 2**40, 2**53 + 1, 2**63, 2**64, -(2**63), 10**30)
RAW = (
    "NaN",
    "Infinity",
    "-Infinity",
    "1e400",
    "-0.0",
    "1e-320",
    "9" * 5000,
    "[" * 3000 + "]" * 3000,
    '{"a":' * 3000 + "1" + "}" * 3000,
    '"\\ud800"',
    '"\\u0000"',
    '"' + "x" * 70000 + '"',
)
"""Texts of JSON that a dump of Python values does not give."""
VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    [],
    {},
    "",
    "x",
    "2",
    "</s>",
    0.5,
    -0.5,
    1.0,
    1e300,
    [[]],
    [None],
    {"": 0},
    "../../etc/passwd",
    [0, -1, 2**40],
    "éé日本🙂",
    *INTEGERS,
)
_MARK = "\0raw"


def mutate(folder: Path, chance: random.Random) -> str:
    """Damages one file of a checkpoint's folder, in one to three places; returns what was done, in words."""
    file = chance.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
    if chance.random() < 0.04:
        kind = chance.choice(list(_REPLACEMENTS))
        file.unlink()
        _REPLACEMENTS[kind](file)
        return f"{file.name}: {kind}"
    times = chance.choice((1, 1, 1, 2, 3))
    content = file.read_bytes()
    done = []
    for _ in range(times):
        content, words = _mutated(file.name, content, chance)
        done.append(words)
    file.write_bytes(content)
    return f"{file.name}: {'; '.join(done)}"


def _mutated(name: str, content: bytes, chance: random.Random) -> tuple[bytes, str]:
    structured = chance.random() < 0.85
    if structured and name.endswith(".json"):
        mutated = _json(content, chance)
    elif structured and name.endswith(".safetensors"):
        mutated = _safetensors(content, chance)
    else:
        mutated = None
    return mutated or _bytes(content, chance, most=4096 if name.endswith((".gguf", ".safetensors")) else 2**30)


def _safetensors(content: bytes, chance: random.Random) -> tuple[bytes, str] | None:
    length = int.from_bytes(content[:8], "little")
    header = _json(content[8 : 8 + length], chance)
    return header and (len(header[0]).to_bytes(8, "little") + header[0] + content[8 + length :], f"header {header[1]}")


def _json(content: bytes, chance: random.Random) -> tuple[bytes, str] | None:
    try:
        root = json.loads(content)
    except (ValueError, RecursionError):
        return None  # damaged before
    places = list(_places(root))
    if not places:
        return None
    parent, key = chance.choice(places)
    where, how = f"at {key!r:.60}", chance.random()
    if how < 0.1:
        del parent[key]
        words = "removed"
    elif how < 0.15 and isinstance(parent, dict):
        parent[f"{key}2"] = parent.pop(key)
        words = "renamed"
    elif how < 0.2 and isinstance(parent, list):
        parent.extend(copy.deepcopy(parent[key]) for _ in range(chance.choice((1, 50))))
        words = "repeated"
    elif how < 0.35:
        raw = chance.choice(RAW)
        parent[key] = _MARK
        return json.dumps(root).replace(json.dumps(_MARK), raw).encode(), f"{where}: {raw[:20]}"
    else:
        parent[key] = _value(parent[key], chance)
        words = f"{parent[key]!r:.60}"
    return json.dumps(root).encode(), f"{where}: {words}"


def _value(old: Any, chance: random.Random) -> Any:
    if type(old) is int and chance.random() < 0.5:
        return chance.choice((old + 1, old - 1, -old, old * 2, old * 1000, float(old), str(old), [old]))
    if isinstance(old, str) and chance.random() < 0.4:
        return chance.choice((old * 2, old[:-1], old.upper(), old + "\n", [old], {"content": old}))
    return copy.deepcopy(chance.choice(VALUES))


def _places(value: Any) -> Any:
    """(container, key) of all that is inside."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in list(items):
        yield value, key
        yield from _places(child)


def _bytes(content: bytes, chance: random.Random, most: int) -> tuple[bytes, str]:
    at = chance.randrange(min(len(content), most) + 1)
    kind = chance.choice(list(_BYTE_EDITS))
    return _BYTE_EDITS[kind](content, at, chance), f"{kind} at byte {at}"


def _flipped(content: bytes, at: int, chance: random.Random) -> bytes:
    edited = bytearray(content)
    for index in range(at, min(len(edited), at + chance.choice((1, 1, 4)))):
        edited[index] = chance.randrange(256)
    return bytes(edited)


def _number(content: bytes, at: int, chance: random.Random) -> bytes:
    size = chance.choice((1, 4, 8))
    number = chance.choice(INTEGERS) % 2 ** (8 * size)
    return content[:at] + number.to_bytes(size, "little") + content[at + size :]


_BYTE_EDITS: dict[str, Callable[[bytes, int, random.Random], bytes]] = {
    "flipped": _flipped,
    "a number": _number,
    "cut": lambda content, at, chance: content[:at],
    "inserted": lambda content, at, chance: content[:at] + chance.randbytes(chance.choice((1, 8, 300))) + content[at:],
    "left out": lambda content, at, chance: content[:at] + content[at + chance.choice((1, 8, 300)) :],
    "twice": lambda content, at, chance: content[: at + 300] + content[at:],
}


def _sparse(file: Path) -> None:
    with file.open("wb") as opened:
        opened.truncate(2**40)


_REPLACEMENTS: dict[str, Callable[[Path], None]] = {
    "a pipe": lambda file: os.mkfifo(file),
    "a folder": lambda file: file.mkdir(),
    "a device": lambda file: file.symlink_to("/dev/zero"),
    "a link out": lambda file: file.symlink_to("/etc/passwd"),
    "a link to itself": lambda file: file.symlink_to(file),
    "a sparse file": _sparse,
    "empty": lambda file: file.touch(),
    "missing": lambda file: None,
}


def copy_of(seed: Path, folder: Path) -> Path:
    """A fresh copy of a seed, to be damaged."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(seed, folder)
    return folder
