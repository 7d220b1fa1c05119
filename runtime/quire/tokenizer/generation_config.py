"""What a checkpoint's generation_config.json suggests: sampling values, and tokens that end a text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quire.errors import ModelError, RequestError
from quire.files import end_tokens, file_of, read_json_object, reading
from quire.sampling_params import SamplingParams

_FIELDS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "max_new_tokens": "max_tokens",
}
"""Name in generation_config.json -> name in SamplingParams."""

_WHOLE = ("top_k", "max_new_tokens")
_MOST_WHOLE, _MOST = 2**31, 3.0e38  # what devices take; SamplingParams knows each field's own range


def generation_defaults(folder: str | Path) -> dict[str, Any]:
    """What holds where a request says nothing, by SamplingParams field, as with vLLM's `--generation-config auto`.

    Every field that the file sets is taken, empty without the file. `do_sample` is not read, as in vLLM: a file with
    `"do_sample": false` gives temperature 1 (or the one it names); a request asks for greedy decoding with 0.

    Raises: ModelError when a value is outside its range.
    """
    file = file_of(Path(folder), "generation_config.json")
    return sampling_defaults(read_json_object(file), str(file))


def sampling_defaults(content: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The same of the content of a generation_config.json; errors call it `where`."""
    defaults = {
        ours: _number(theirs, content[theirs], where)
        for theirs, ours in _FIELDS.items()
        if content.get(theirs) is not None
    }
    try:
        with reading(where):
            SamplingParams(**defaults)
    except RequestError as error:
        raise ModelError(f"{where}: {error.what}", because=error.because, hint="mending the file") from error
    return defaults


def generation_end_tokens(folder: str | Path) -> list[int | str]:
    """What eos_token_id of generation_config.json names, else that of config.json; see `end_tokens`."""
    for name in ("generation_config.json", "config.json"):
        file = file_of(Path(folder), name)
        value = read_json_object(file).get("eos_token_id")
        if value is not None:
            return end_tokens(value, str(file))
    return []


def _number(name: str, value: Any, where: str) -> Any:
    """The value, a whole float as an integer where one is wanted."""
    if isinstance(value, float) and name in _WHOLE and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    is_number = isinstance(value, int if name in _WHOLE else (int, float)) and not isinstance(value, bool)
    if not is_number or not abs(value) < (_MOST_WHOLE if name in _WHOLE else _MOST):
        kind = "an integer of 32 bits" if name in _WHOLE else "a number"
        raise ModelError(
            f"{where}: {name}={value!r:.100}", because=f"{kind} is expected there", hint="mending the file"
        )
    return value
