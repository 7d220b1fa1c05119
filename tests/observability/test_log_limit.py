"""What is said a thousand times is written a few times, with the count."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator

import pytest

from quire.observability.log_limit import MOST_KINDS, LogLimit


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def limited() -> Iterator[tuple[logging.Logger, Clock, Callable[[], list[str]]]]:
    """A logger behind a limit of 2 records in 10 s, its clock, and the lines written since the last look."""
    clock, sink = Clock(), io.StringIO()
    handler = logging.StreamHandler(sink)
    handler.addFilter(LogLimit(2, 10.0, clock=clock))
    logger = logging.getLogger("test_log_limit")
    logger.propagate = False
    logger.setLevel(logging.DEBUG)
    logger.addHandler(handler)

    def lines() -> list[str]:
        written = sink.getvalue().splitlines()
        sink.seek(0)
        sink.truncate()
        return written

    yield logger, clock, lines
    logger.removeHandler(handler)


def test_a_flood_is_a_few_lines_and_a_count(
    limited: tuple[logging.Logger, Clock, Callable[[], list[str]]],
) -> None:
    logger, clock, lines = limited
    for second in range(2):
        for number in range(1000):
            logger.error("step %d failed", number)
        logger.error("something else")
        first, last, other = lines()
        assert first == ("step 0 failed" if second == 0 else "step 0 failed [998 more of these were left out]")
        assert last == "step 1 failed [more of these within 10 s are counted, not shown]"
        assert other == "something else"
        clock.now_s += 10


def test_what_is_below_the_level_always_passes(
    limited: tuple[logging.Logger, Clock, Callable[[], list[str]]],
) -> None:
    logger, _, lines = limited
    for number in range(20):
        logger.info("request %d", number)
    assert len(lines()) == 20


def test_the_kinds_it_remembers_are_bounded() -> None:
    limit = LogLimit(1)
    for number in range(3 * MOST_KINDS):
        assert limit.filter(logging.LogRecord("x", logging.ERROR, "x.py", number, "text", None, None))
    assert len(limit._windows) == MOST_KINDS
