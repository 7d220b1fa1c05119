"""The boundary around everything that is read from a model's files."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from quire.errors import ModelError, QuireError

logger = logging.getLogger("quire")

_MOST_CHARACTERS = 500


@contextmanager
def reading(place: Path | str | Callable[[], str]) -> Iterator[None]:
    """Turns whatever the block raises into a ModelError that names `place`; errors of Quire's own pass.

    A file can hold what no reader foresaw. The traceback goes to the log at debug level. Boundaries nest: the
    innermost names the place. A ModelError that does not name a `place` which is a path gets it in front.

    Args:
        place: the file, and where in it; a function is asked when the block has failed.
    """
    try:
        yield
    except ModelError as error:
        if not isinstance(place, Path) or str(place) in str(error):
            raise
        raise ModelError(f"{place}: {error.what}", because=error.because, hint=error.hint) from error
    except QuireError:
        raise
    except BaseException as error:  # whatever a file's content can make a reader raise, panics of Rust included
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        where = place() if callable(place) else str(place)
        logger.debug("while reading %s", where, exc_info=True)
        raise ModelError(
            f"{where} cannot be read",
            because=_in_words(error),
            hint="downloading the model again; if it is whole, it is of a kind that Quire does not know",
        ) from error


def is_panic(error: BaseException) -> bool:
    """Whether a library written in Rust panicked: what pyo3 makes of that is no Exception."""
    return type(error).__name__ == "PanicException"


def _in_words(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "what it describes does not fit in memory"
    if isinstance(error, RecursionError):
        return "something in it is nested too deep"
    if isinstance(error, OSError):
        return str(error)
    text = str(error)[:_MOST_CHARACTERS]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
