"""What a 16-bit step of experts is forgiven: the row of a near tie, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from quire.testing.conform.case import CheckFailedError
from quire.testing.conform.steps import check_lines, expected_logits
from quire.testing.conform.subject import Dtypes

TOKENS = tuple(range(3, 26))


class Line:
    """A line whose logits came from a device."""

    def __init__(self, logits: np.ndarray) -> None:
        self.tokens, self.logits = list(TOKENS), list(logits)

    def all_logits(self) -> np.ndarray:
        return np.stack(self.logits)


@pytest.mark.parametrize(("family", "dtype", "num_rows", "value", "passes"), [
    ("mixtral", "bfloat16", 1, 9.0, True),
    ("mixtral", "bfloat16", 2, 9.0, False),
    ("mixtral", "bfloat16", 1, np.nan, False),
    ("mixtral", "float32", 1, 9.0, False),
    ("qwen3", "bfloat16", 1, 9.0, False),
])
def test_one_row_of_sixteen_may_choose_another_expert(
    family: str, dtype: str, num_rows: int, value: float, passes: bool
) -> None:
    dtypes = Dtypes(dtype, dtype, dtype)
    logits = expected_logits(family, dtypes, TOKENS).copy()
    logits[5 : 5 + num_rows, 7] += value
    if passes:
        check_lines([Line(logits)], family, dtypes)  # type: ignore[list-item]
        return
    with pytest.raises(CheckFailedError, match="error"):
        check_lines([Line(logits)], family, dtypes)  # type: ignore[list-item]
