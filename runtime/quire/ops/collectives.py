"""What the collectives share: on the reference they run over one rank."""

from __future__ import annotations

from typing import Any

from quire.errors import BackendError
from quire.ops.declaration import RunContext


def world_size_keyword(run: RunContext) -> dict[str, Any]:
    """How many ranks the run has."""
    return {"world_size": run.world_size}


def check_one_rank(op: str, world_size: int) -> None:
    """Raises BackendError for more than one."""
    if world_size != 1:
        raise BackendError(
            f"{op} over {world_size} ranks on the reference",
            because="it runs a single rank",
            hint="tensor parallelism of degree 1, or another device",
        )
