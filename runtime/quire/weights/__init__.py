"""Where weights come from: checkpoints and random numbers, behind the contract's WeightSource.

`formats` has a folder for each way in which checkpoints are stored, `schemes` says what quantized matrices are. Above
them `expressions` resolves what a model's graph says of a weight ("these tensors, joined and cut") over their tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from quire.errors import ConfigError
from quire.graph.ir import ModelGraph
from quire.weights.checkpoint import CheckpointWeights
from quire.weights.checkpoint_files import CheckpointFiles
from quire.weights.dummy import DummyWeights
from quire.weights.open_checkpoint import open_checkpoint

LoadFormat = Literal["auto", "safetensors", "dummy"]


def open_weights(
    checkpoint: str | Path | CheckpointFiles | None,
    model: ModelGraph,
    *,
    load_format: LoadFormat = "auto",
    seed: int = 0,
    dtype: str = "bfloat16",
    rank: int = 0,
    world_size: int = 1,
    ignorable_tensors: Sequence[str] = (),
    where: str = "",
) -> CheckpointWeights | DummyWeights:
    """The WeightSource of a model.

    Args:
        checkpoint: where it lies, or its files where they are open already; None for "dummy", which touches none.
        model: the graph this rank runs, before or after passes; cut by `quire.graph.shard` when world_size > 1.
        load_format: "auto" and "safetensors" read the checkpoint; "dummy" = random weights of `dtype` from `seed`.
        rank, world_size: the place in the tensor-parallel group.
        ignorable_tensors: `ModelSpec.ignorable_tensors`. where: how errors call the checkpoint.
    Raises ModelError for a checkpoint that does not fit the model, ConfigError for an unknown load format.
    """
    if load_format == "dummy":
        return DummyWeights(model, seed, dtype, rank, world_size)
    if load_format in ("auto", "safetensors") and checkpoint is not None:
        files = Path(checkpoint) if isinstance(checkpoint, str) else checkpoint
        return CheckpointWeights(files, model, rank, world_size, ignorable_tensors, where=where)
    raise ConfigError(f"load_format={load_format!r}", because="it is one of auto, safetensors, dummy")


__all__ = ["CheckpointFiles", "CheckpointWeights", "DummyWeights", "open_checkpoint", "open_weights"]
