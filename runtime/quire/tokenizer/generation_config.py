"""The sampling values that a checkpoint's generation_config.json suggests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quire.errors import ModelError, RequestError
from quire.sampling_params import SamplingParams
from quire.tokenizer.json_file import read_json_object

_FIELDS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "max_new_tokens": "max_tokens",
}
"""Name in generation_config.json -> name in SamplingParams."""


def generation_defaults(folder: str | Path) -> dict[str, Any]:
    """What holds where a request says nothing, by SamplingParams field, as with vLLM's `--generation-config auto`.

    Every field that the file sets is taken, empty without the file. `do_sample` is not read, as in vLLM: a file with
    `"do_sample": false` gives temperature 1 (or the one it names); a request asks for greedy decoding with 0.

    Raises: ModelError when a value is outside its range.
    """
    file = Path(folder) / "generation_config.json"
    return sampling_defaults(read_json_object(file), str(file))


def sampling_defaults(content: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The same of the content of a generation_config.json; errors call it `where`."""
    defaults = {ours: content[theirs] for theirs, ours in _FIELDS.items() if content.get(theirs) is not None}
    try:
        SamplingParams(**defaults)
    except RequestError as error:
        raise ModelError(f"{where}: {error.what}", because=error.because, try_="mending the file") from error
    return defaults


def generation_eos_token_ids(folder: str | Path) -> list[int]:
    """eos_token_id of generation_config.json, else of config.json: one id or a list in the file, a list here."""
    for name in ("generation_config.json", "config.json"):
        ids = read_json_object(Path(folder) / name).get("eos_token_id")
        if ids is not None:
            return [ids] if isinstance(ids, int) else [int(token_id) for token_id in ids]
    return []
