"""Reads the JSON files that lie beside a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from quire.errors import ModelError


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty when there is no such file. Raises ModelError when it is not an object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read", because=str(error), try_="downloading the file again") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} does not hold a JSON object", because=f"it holds a {type(value).__name__}",
                         try_="downloading the file again")  # fmt: skip
    return value
