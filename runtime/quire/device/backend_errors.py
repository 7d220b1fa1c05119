"""What a device raised, as the BackendError that the contract asks for: the words and the kind, in one place."""

from __future__ import annotations

from quire.errors import BackendError, QuireError


def backend_error(error: Exception, what: str, hint: str = "") -> BackendError:
    """A BackendError with `error` as its cause and its reason; one that is a BackendError already, as it is.

    Notes of the error (`BaseException.add_note`), such as the node of the graph, become part of the reason.
    MemoryError, and what frameworks raise in its place, is of kind "out_of_memory".
    """
    if isinstance(error, BackendError):
        return error
    text = error.what if isinstance(error, QuireError) else f"{type(error).__name__}: {error}"
    because = ", ".join([text, *getattr(error, "__notes__", ())])
    wrapped = BackendError(
        what, because=because, hint=hint, kind="out_of_memory" if _is_out_of_memory(error) else "step"
    )
    wrapped.__cause__ = error
    return wrapped


def _is_out_of_memory(error: Exception) -> bool:
    """MemoryError; torch.OutOfMemoryError, by name, since the core imports no framework; XLA's RESOURCE_EXHAUSTED."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (type(error).__name__ == "XlaRuntimeError" and "RESOURCE_EXHAUSTED" in str(error))
    )
