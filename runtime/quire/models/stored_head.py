"""Checkpoints that store a head of their own though their config says that the head is the embedding.

Fine-tuning can leave such files behind: the head was trained, and `tie_word_embeddings` was forgotten. As transformers
does, Quire then uses the stored head, and says so. A head that is equal to the embedding is held once.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from quire.graph.ir import ModelGraph, Source, source_tensors
from quire.weights import CheckpointFiles
from quire.weights.schemes import PLAIN

HEAD_NAMES = ("lm_head.weight", "language_model.lm_head.weight", "embed_out.weight")
"""What checkpoints call the head's matrix."""

_BYTES_AT_ONCE = 2**24


def tied_embedding(model: ModelGraph) -> Source | None:
    """The embedding's source where the head is the same, else None."""
    head = model.heads["logits"].graph.weights["lm_head.weight"].source
    return next((weight.source for weight in model.embed.graph.weights.values() if weight.source == head), None)


def differing_head(model: ModelGraph, files: CheckpointFiles) -> str | None:
    """The name of a stored head that differs from the embedding that the model would use; None where there is none."""
    source = tied_embedding(model)
    head = next((name for name in HEAD_NAMES if name in files), None)
    if source is None or head is None:
        return None
    embedding = next((tensor.name for tensor in source_tensors(source) if tensor.name in files), None)
    if embedding is None:
        return None  # that it is missing is said where all missing tensors are
    return None if _equal(files, head, embedding) else head


def _equal(files: CheckpointFiles, head: str, embedding: str) -> bool:
    if files.shape(head) != files.shape(embedding) or files.scheme(head) != files.scheme(embedding):
        return False
    if files.dtype(head) != files.dtype(embedding):
        return False
    if files.scheme(head) != PLAIN:
        first, second = files.quantized(head), files.quantized(embedding)
        return np.array_equal(first.values, second.values) and np.array_equal(first.scales, second.scales)
    return all(np.array_equal(first, second) for first, second in _pieces(files.tensor(head), files.tensor(embedding)))


def _pieces(head: np.ndarray, embedding: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The same rows of both, a few megabytes at a time, as bytes: NaN is equal to itself."""
    rows = max(1, _BYTES_AT_ONCE // max(1, head[:1].nbytes))
    for start in range(0, len(head), rows):
        yield tuple(
            np.ascontiguousarray(array[start : start + rows]).view(np.uint8)  # type: ignore[misc]
            for array in (head, embedding)
        )
