"""The KV cache has its pages before steps write to them, and closing does not wait for the rest."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quire.errors import BackendError
from tests.backends.cpu.devices import cpu_driver, cpu_plan, executor_of
from tests.device.conftest import Driver, Line

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/statm").exists() or tuple(map(int, os.uname().release.split(".")[:2])) < (5, 14),
    reason="pages are populated on Linux from 5.14 on",
)

PROMPT = [3, 14, 15, 9, 26, 5, 35, 8]
NUM_BLOCKS = 32000


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def wait_until(reached: Callable[[], bool], seconds: float = 60.0) -> bool:
    end = time.monotonic() + seconds
    while not reached() and time.monotonic() < end:
        time.sleep(0.01)
    return reached()


def big_cache() -> Any:
    return executor_of("cpu", cpu_plan(options={"threads": "2"}), num_blocks=NUM_BLOCKS)


def test_the_pages_of_the_cache_are_there_before_a_step_writes_to_them() -> None:
    before = resident_bytes()
    executor = big_cache()
    native = executor._flat.native
    assert native.kv_bytes > 30 * 2**20
    assert wait_until(lambda: native.populated_bytes == native.kv_bytes)
    assert resident_bytes() - before >= 0.99 * native.kv_bytes  # other pages of this process come and go
    executor.close()


def test_populating_changes_no_token() -> None:
    def token(driver: Driver) -> int:
        return int(driver.step([(Line(list(PROMPT), {"full": [3, 1], "sliding": [9, 2]}), 8)])[0])

    populated = big_cache()
    native = populated._flat.native
    assert wait_until(lambda: native.populated_bytes == native.kv_bytes)
    assert token(Driver(populated)) == token(cpu_driver())
    populated.close()


@pytest.mark.parametrize("wait_s", [0.0, 0.06])
def test_closing_stops_it(wait_s: float) -> None:
    executor = big_cache()
    time.sleep(wait_s)
    start = time.monotonic()
    executor.close()
    assert time.monotonic() - start < 5.0
    with pytest.raises(BackendError, match="closed"):
        executor.set_profiling(True)
