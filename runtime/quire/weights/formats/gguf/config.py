"""The metadata of a GGUF file in the words of a config.json, so that the families' builders run unchanged.

Source: the GGUF specification and the key names of the `gguf` package.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quire.errors import ModelError
from quire.weights.formats.gguf.architectures import Config, architectures
from quire.weights.formats.gguf.gguf_file import GgufFiles
from quire.weights.formats.gguf.hyperparameters import Hyperparameters
from quire.weights.formats.gguf.names import NameTable
from quire.weights.formats.gguf.special_tokens import end_token_ids, token_id

_SAMPLING_KEYS = {
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "penalty_repeat": "repetition_penalty",
}


@dataclass(frozen=True, slots=True)
class GgufConfig:
    """What a file says of its model.

    Attributes:
        config: as in config.json. generation: as in generation_config.json.
        names: of the file's tensors.
        notes: what of the metadata is not used, for the log.
    """

    config: Mapping[str, Any]
    generation: Mapping[str, Any]
    names: NameTable
    notes: tuple[str, ...]


def gguf_config(files: GgufFiles) -> GgufConfig:
    """The configuration of a file. Raises ModelError for what is missing or not implemented."""
    architecture, known = files.metadata.get("general.architecture"), architectures()
    if not isinstance(architecture, str) or architecture not in known:
        raise ModelError(
            f"{files.path}: general.architecture={architecture!r} not supported",
            because=f"supported architectures of GGUF files are {', '.join(sorted(known))}",
            hint="the file of the language model" if architecture == "clip" else "another model",
        )
    values = Hyperparameters(files.metadata, architecture, str(files.path))
    config = {**known[architecture].config(values, files), **_rest(values, files)}
    unread = values.finish()
    notes = (f"not used of the file's metadata: {', '.join(unread)}",) if unread else ()
    names = known[architecture].names[config["architectures"][0]]
    return GgufConfig(config, generation_config(files.metadata), names, notes)


def generation_config(metadata: Mapping[str, Any]) -> Config:
    """Ends of texts and, where the file names them, sampling values, as in generation_config.json."""
    found = {
        ours: metadata[f"general.sampling.{theirs}"]
        for theirs, ours in _SAMPLING_KEYS.items()
        if f"general.sampling.{theirs}" in metadata
    }
    return {**found, "eos_token_id": end_token_ids(metadata)}


def _rest(values: Hyperparameters, files: GgufFiles) -> Config:
    """What all architectures share."""
    values.raw("vocab_size")  # the rows of the embedding are what counts
    embedding = files.tensors.get("token_embd.weight")
    if embedding is None:
        raise ModelError(
            f"{files.path} has no tensor token_embd.weight",
            because="every model has embeddings",
            hint="a file with the whole model",
        )
    ids = {
        f"{ours}_token_id": token_id(files.metadata, theirs)
        for ours, theirs in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"))
    }
    return {
        "vocab_size": embedding.shape[0],
        "tie_word_embeddings": "output.weight" not in files.tensors,
        "torch_dtype": _dtype(files),
        **ids,
    }


def _dtype(files: GgufFiles) -> str:
    """The dtype of most floating-point matrices; bfloat16 for models in integers, which rarely say where they began."""
    counts = {"F32": 0, "F16": 0, "BF16": 0}
    for tensor in files.tensors.values():
        if len(tensor.shape) > 1:
            if tensor.kind.name not in counts:
                return "bfloat16"
            counts[tensor.kind.name] += 1
    return {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}[max(counts, key=lambda name: counts[name])]
