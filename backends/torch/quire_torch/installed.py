"""The installed torch by its package metadata: importing it would take seconds."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec


def torch_version() -> str | None:
    """Its version; None = not installed."""
    if find_spec("torch") is None:
        return None
    try:
        return version("torch")
    except PackageNotFoundError:
        return "unknown"


def local_build(torch: str) -> str:
    """What a torch version says of its build, as "cpu", "cu130" or "rocm6.4"; "" for wheels without such a mark."""
    return torch.partition("+")[2]
