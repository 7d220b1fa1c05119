"""How large a request's body may be, and a scanner that counts what is in it before anything is parsed.

Parsing a body and checking its fields happens in the event loop, so it must be short. Its time follows from counts:
a value costs some 30 ns, a string 150 ns, an object or list 200 ns and more with the garbage collector's passes, an
escape 20 ns. The counts are bounded here, piece by piece as the body arrives, so that a body at every limit is parsed
in a few ten milliseconds, and one above a limit is refused unparsed.
"""

from __future__ import annotations

from dataclasses import dataclass

from quire.errors import RequestError

BASE_BYTES = 4 << 20
BYTES_PER_TOKEN = 16
BASE_VALUES = 1 << 17

_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
_CLOSING = b"]}"
_DIGITS_TO_ZERO = bytes.maketrans(b"123456789", b"0" * 9)


@dataclass(frozen=True, kw_only=True, slots=True)
class BodyLimits:
    """What a body may hold and how long it may take to arrive."""

    max_bytes: int
    max_values: int
    """Items of lists and objects, all levels together."""
    max_strings: int = 1 << 15
    """Strings, keys included."""
    max_containers: int = 1 << 14
    """Lists and objects."""
    max_escapes: int = 1 << 20
    """Backslashes."""
    max_depth: int = 128
    """Lists and objects inside each other."""
    max_digits: int = 512
    """Digits of one number; the largest float has 309."""
    timeout_s: float = 60.0
    """Seconds from the head of a request to the end of its body."""

    @classmethod
    def for_model(cls, max_model_len: int, *, max_bytes: int | None = None, timeout_s: float = 60.0) -> BodyLimits:
        """Room for a prompt of the model's length, as text or as token ids, several times over."""
        if max_bytes is None:
            max_bytes = BASE_BYTES + BYTES_PER_TOKEN * max_model_len
        return cls(max_bytes=max_bytes, max_values=BASE_VALUES + max_model_len, timeout_s=timeout_s)


class BodyScanner:
    """Counts what JSON text holds, without parsing it.

    Text that is not JSON may be counted wrongly behind its first mistake; a parser stops there.
    """

    def __init__(self, limits: BodyLimits) -> None:
        self._limits = limits
        self._in_string = False
        self._carry = b""  # a backslash that ends a piece belongs to the next one
        self._values = self._quotes = self._containers = self._escapes = self._depth = 0

    def feed(self, piece: bytes) -> None:
        """Counts the next piece of the text; raises RequestError at the first limit that it passes."""
        text = self._carry + piece
        num_backslashes = len(text) - len(text.rstrip(b"\\"))
        self._carry = b"\\" if num_backslashes % 2 else b""
        text = text[: len(text) - len(self._carry)]
        if b"\\" in text:
            self._escapes += text.count(b"\\")
            text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
        parts = text.split(b'"')
        self._quotes += len(parts) - 1
        outside = b'"'.join(parts[1 if self._in_string else 0 :: 2])
        self._in_string ^= len(parts) % 2 == 0
        self._values += outside.count(b",")
        self._check_counts()
        self._count_containers(outside)
        if b"0" * (self._limits.max_digits + 1) in outside.translate(_DIGITS_TO_ZERO):
            raise _refusal("a number is too long", f"a number has at most {self._limits.max_digits} digits")

    def _check_counts(self) -> None:
        limits = self._limits
        for count, limit, name in (
            (self._values, limits.max_values, "values"),
            (self._quotes // 2, limits.max_strings, "strings"),
            (self._escapes, limits.max_escapes, "escaped characters"),
        ):
            if count > limit:
                raise _refusal(f"the body holds too many {name}", f"this server takes at most {limit}")

    def _count_containers(self, outside: bytes) -> None:
        limits = self._limits
        for bracket in outside.translate(None, _NO_BRACKETS):
            if bracket in _CLOSING:
                self._depth -= 1
                continue
            self._depth += 1
            self._containers += 1
            if self._depth > limits.max_depth:
                raise _refusal("the body is nested too deeply", f"at most {limits.max_depth} levels are taken")
            if self._containers > limits.max_containers:
                raise _refusal(
                    "the body holds too many lists and objects", f"this server takes at most {limits.max_containers}"
                )


def _refusal(what: str, because: str) -> RequestError:
    return RequestError(what, because=because, hint="a smaller request, or several")
