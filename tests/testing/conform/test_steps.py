"""What L3 holds logits against: bounds from an error model, every row, and small errors everywhere."""

from __future__ import annotations

import numpy as np
import pytest

from quire.testing.conform.case import CheckFailedError
from quire.testing.conform.lines import Lines
from quire.testing.conform.step_bounds import FLOAT32_BOUND, expected_logits, logit_bound, rms_error
from quire.testing.conform.steps import check_lines
from quire.testing.conform.subject import Dtypes
from quire.testing.conform.tiny_models import CONFIGS

DTYPES = [Dtypes(name, name, name) for name in ("float32", "bfloat16", "float16")]


class Line:
    """A line whose logits came from a device."""

    def __init__(self, tokens: tuple[int, ...], logits: np.ndarray) -> None:
        self.tokens, self.logits = list(tokens), list(logits)

    def all_logits(self) -> np.ndarray:
        return np.stack(self.logits)


def judged(family: str, dtypes: Dtypes, error: np.ndarray | float) -> None:
    tokens = Lines(family, dtypes.weight).prompts()[0]
    logits = expected_logits(family, dtypes, tokens) + np.float32(error)
    check_lines([Line(tokens, logits)], family, dtypes)  # type: ignore[list-item]


def one_row(row: int, size: float) -> np.ndarray:
    error = np.zeros((23, 131), np.float32)
    error[row, 7] = size
    return error


@pytest.mark.parametrize("dtypes", DTYPES, ids=str)
@pytest.mark.parametrize("family", CONFIGS)
def test_one_wrong_row_is_enough(family: str, dtypes: Dtypes) -> None:
    judged(family, dtypes, 0.0)
    for row in (0, 5, 22):
        with pytest.raises(CheckFailedError, match="error"):
            judged(family, dtypes, one_row(row, 9.0))
    with pytest.raises(CheckFailedError, match=r"rows \[5\] are not finite"):
        judged(family, dtypes, one_row(5, np.nan))


@pytest.mark.parametrize("dtypes", DTYPES[1:], ids=str)
@pytest.mark.parametrize("family", CONFIGS)
def test_a_small_error_everywhere_is_seen(family: str, dtypes: Dtypes) -> None:
    """Half of what the worst logit may be off, on every logit."""
    bound, tokens = logit_bound(family, dtypes), Lines(family, dtypes.weight).prompts()[0]
    logits = expected_logits(family, dtypes, tokens)
    size = 0.5 * bound.worst * np.sqrt(np.mean(logits**2))
    signs = np.random.default_rng(0).choice([-1.0, 1.0], logits.shape)
    with pytest.raises(CheckFailedError, match="rms error"):
        judged(family, dtypes, size * signs)


@pytest.mark.parametrize("family", CONFIGS)
def test_bounds_are_those_of_rounding(family: str) -> None:
    """Less than what was once written down for all models, and never nothing."""
    f32, bf16, f16 = (logit_bound(family, dtypes) for dtypes in DTYPES)
    assert f32.worst == f32.rms == FLOAT32_BOUND
    assert FLOAT32_BOUND < f16.worst < 0.03
    assert f16.worst < bf16.worst < 0.15
    assert 3 * bf16.rms < bf16.worst
    cached = logit_bound(family, Dtypes("float32", "bfloat16", "bfloat16"))
    assert FLOAT32_BOUND < cached.worst < bf16.worst


def test_rms_error_is_of_all_elements() -> None:
    assert rms_error(np.array([[3.0, 5.0]]), np.array([[3.0, 4.0]])) == pytest.approx(1 / 5)
