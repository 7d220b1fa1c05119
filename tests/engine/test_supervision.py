"""What supervision may say, and how often it restarts."""

from __future__ import annotations

from typing import Any

import pytest

from quire.engine.supervision import RestartLimit, Supervision
from quire.errors import ConfigError


@pytest.mark.parametrize("wrong", [
    {"on_death": "retry"}, {"max_restarts": -1}, {"max_restarts": True}, {"max_restarts": 2**40}, {"window_s": 0},
    {"window_s": float("nan")}, {"health_timeout_s": float("inf")}, {"health_timeout_s": "3"},
    {"health_timeout_s": 0.5},
])  # fmt: skip
def test_values_that_mean_nothing_are_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"^{next(iter(wrong))}="):
        Supervision(**wrong)


def test_restarts_are_counted_within_the_window() -> None:
    now_s = [0.0]
    limit = RestartLimit(Supervision(max_restarts=2, window_s=100), lambda: now_s[0])
    assert [limit.take(), limit.take(), limit.take()] == [1, 2, 0]
    now_s[0] = 99.0
    assert limit.take() == 0
    now_s[0] = 100.0
    assert [limit.take(), limit.take(), limit.take()] == [1, 2, 0]


def test_exit_and_zero_restart_never() -> None:
    assert RestartLimit(Supervision(on_death="exit")).take() == 0
    assert RestartLimit(Supervision(max_restarts=0)).take() == 0
