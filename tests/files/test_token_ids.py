"""`eos_token_id` in every spelling that files use."""

from __future__ import annotations

from typing import Any

import pytest

from quire.errors import ModelError
from quire.files import end_tokens


@pytest.mark.parametrize(
    ("value", "tokens"),
    [
        (None, []),
        (-1, []),
        (2, [2]),
        (1.0, [1]),
        ("2", [2]),
        ("</s>", ["</s>"]),
        ([], []),
        ([2, "3", 4.0, "</s>", None, 2], [2, 3, 4, "</s>"]),
    ],
)
def test_ids_and_texts(value: Any, tokens: list[int | str]) -> None:
    assert end_tokens(value, "config.json") == tokens


@pytest.mark.parametrize("value", [True, 1.5, float("nan"), float("inf"), 2**31, -2, "", {}, [[2]], 1e300])
def test_what_names_no_token_is_refused(value: Any) -> None:
    with pytest.raises(ModelError, match=r"config\.json: eos_token_id="):
        end_tokens(value, "config.json")
