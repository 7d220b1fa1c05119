"""Reads the JSON files that lie beside a checkpoint."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

from quire.errors import ModelError
from quire.files.regular_file import read_text

logger = logging.getLogger("quire")

MOST_JSON_BYTES = 2**26
"""Larger than the index of any published checkpoint; what is parsed takes ten times as much memory."""

_AGAIN = "downloading the file again"
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def read_json_object(path: Path | None) -> dict[str, Any]:
    """The object in a JSON file; empty when there is no such file. Raises ModelError when it is not an object."""
    if path is None or not (path.exists() or path.is_symlink()):
        return {}
    return parse_object(read_text(path, MOST_JSON_BYTES), str(path))


def parse_object(text: str | bytes, where: str, *, unique_names: bool = False) -> dict[str, Any]:
    """The object that a text of JSON holds; see `parse_json`."""
    value = parse_json(text, where, unique_names=unique_names)
    if not isinstance(value, dict):
        raise ModelError(
            f"{where} does not hold a JSON object", because=f"it holds a {type(value).__name__}", hint=_AGAIN
        )
    return value


def parse_json(text: str | bytes, where: str, *, unique_names: bool = False) -> Any:
    """The value that a text of JSON holds; ModelError that names `where` and the line when it is none.

    Of a name that an object has twice the last value holds, and a log line says so.

    Args:
        unique_names: a name that an object has twice is an error instead.
    """

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(found)
        if len(values) < len(found):
            seen: set[str] = set()
            twice = next(name for name, _ in found if name in seen or seen.add(name))  # type: ignore[func-returns-value]
            twice = twice[:100]
            if unique_names:
                raise ModelError(
                    f"{where}: {twice!r} is there twice", because="a name stands for one value", hint=_AGAIN
                )
            logger.warning("%s: %r is there twice in one object; the last value holds", where, twice)
        return values

    try:
        value = json.loads(text, object_pairs_hook=pairs)
        if _SURROGATE.search(text if isinstance(text, str) else text.decode("utf-8")):
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except json.JSONDecodeError as error:
        raise ModelError(
            f"{where} is not JSON", because=f"line {error.lineno}, column {error.colno}: {error.msg}", hint=_AGAIN
        ) from error
    except UnicodeEncodeError as error:
        raise ModelError(
            f"{where} holds a text that is no Unicode", because="it has half of a surrogate pair", hint=_AGAIN
        ) from error
    except UnicodeDecodeError as error:
        raise ModelError(f"{where} is not JSON", because=f"byte {error.start} is no UTF-8", hint=_AGAIN) from error
    except ValueError as error:  # an integer of more digits than Python reads
        raise ModelError(f"{where} is not JSON", because=str(error), hint=_AGAIN) from error
    except RecursionError as error:
        raise ModelError(f"{where} is not read", because="it is nested too deep", hint=_AGAIN) from error
