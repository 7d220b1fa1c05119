"""Whatever reading raises is a ModelError that names the place; what is no failure of reading passes."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import tokenizers

from quire.errors import ConfigError, ModelError
from quire.files import reading


@pytest.mark.parametrize(
    ("error", "because"),
    [
        (KeyError("a"), "KeyError: 'a'"),
        (RecursionError("depth"), "nested too deep"),
        (MemoryError(), "does not fit in memory"),
        (OSError(5, "Input/output error"), "Input/output error"),
        (ValueError("x" * 10**6), "ValueError: xxx"),
        (ZeroDivisionError(), "ZeroDivisionError"),
    ],
)
def test_errors_of_any_kind_become_a_model_error(
    error: Exception, because: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, logger="quire"), pytest.raises(ModelError) as caught, reading("a.json"):
        raise error
    assert caught.value.what == "a.json cannot be read"
    assert because in caught.value.because
    assert len(str(caught.value)) < 1000
    assert "Traceback" in caplog.text


def test_a_panic_of_a_rust_library_is_one_too() -> None:
    class PanicException(BaseException):
        """As pyo3 raises it: not an Exception."""

    with pytest.raises(ModelError, match="the model: line 3 cannot be read"), reading(lambda: "the model: line 3"):
        raise PanicException("called `Option::unwrap()` on a `None` value")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), ConfigError("a flag")])
def test_interruptions_and_errors_of_other_kinds_pass(error: BaseException) -> None:
    with pytest.raises(type(error)), reading("a.json"):
        raise error


def test_the_innermost_boundary_names_the_place() -> None:
    with (
        pytest.raises(ModelError, match=r"tokenizer\.json cannot be read"),
        reading("folder"),
        reading("tokenizer.json"),
    ):
        tokenizers.Tokenizer.from_str("{")


def test_a_model_error_that_names_no_file_gets_it() -> None:
    with pytest.raises(ModelError) as caught, reading(Path("/models/a.gguf")):
        raise ModelError("eos_token_id=9", because="there are 4 tokens", hint="another file")
    assert (caught.value.what, caught.value.hint) == ("/models/a.gguf: eos_token_id=9", "another file")
    named = ModelError("/models/a.gguf is too old")
    with pytest.raises(ModelError) as caught, reading(Path("/models/a.gguf")):
        raise named
    assert caught.value is named
