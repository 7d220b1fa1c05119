"""Steps submitted ahead, executors side by side, closing, forking."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from quire.device.batch import StepBatch
from quire.errors import BackendError, InternalError
from quire.sampling.batch import SamplingBatch
from tests.backends.cpu.devices import cpu_driver
from tests.device.conftest import Driver, Line, greedy

PROMPT = [3, 14, 15, 9, 26, 5, 35, 8]
TABLES = {"full": [3, 1], "sliding": [9, 2]}


def decode_batch(driver: Driver, position: int, token: int, sampling: SamplingBatch | None = None) -> StepBatch:
    line = Line([0] * position + [token], dict(TABLES), position)
    return driver.batch(
        [(line, 1)],
        prev_row=np.array([0 if token < 0 else -1], np.int32),
        sampling=sampling or greedy(1, [position + 1]),
        logits_indices=np.array([0], np.int32),
    )


def synchronous(count: int, sampling: SamplingBatch | None = None) -> list[int]:
    driver, line = cpu_driver(), Line(list(PROMPT), dict(TABLES))
    tokens = driver.step([(line, 8)]).tolist()
    for position in range(8, 8 + count):
        batch = decode_batch(driver, position, tokens[-1], sampling)
        tokens.append(int(driver.executor.submit(batch).result().tokens[0, 0]))
    return tokens[1:]


def overlapped(count: int, sampling: SamplingBatch | None = None) -> list[int]:
    driver, line = cpu_driver(), Line(list(PROMPT), dict(TABLES))
    tokens = []
    pending = driver.executor.submit(driver.batch([(line, 8)]))
    for position in range(8, 8 + count):
        following = driver.executor.submit(decode_batch(driver, position, -1, sampling))
        tokens.append(int(pending.result().tokens[0, 0]))
        pending = following
    return [*tokens[1:], int(pending.result().tokens[0, 0])]


def test_token_feedback_gives_the_tokens_of_single_steps() -> None:
    assert overlapped(6) == synchronous(6)


def test_token_feedback_of_rows_drawn_natively() -> None:
    drawn = replace(greedy(1, [9]), temperature=np.array([0.8], np.float32), seed=np.array([5], np.uint64))
    assert overlapped(6, drawn) == synchronous(6, drawn)
    assert overlapped(6, drawn) != overlapped(6)


def test_token_feedback_of_rows_that_the_host_samples() -> None:
    drawn = replace(
        greedy(1, [9]),
        temperature=np.array([0.8], np.float32),
        seed=np.array([5], np.uint64),
        presence_penalty=np.array([0.1], np.float32),
    )
    assert overlapped(6, drawn) == synchronous(6, drawn)
    assert overlapped(6, drawn) != overlapped(6)


def test_results_may_be_read_out_of_order() -> None:
    driver, line = cpu_driver(), Line(list(PROMPT), dict(TABLES))
    hot = replace(greedy(1, [8]), rows=np.array([7], np.int32), frequency_penalty=np.array([0.8], np.float32))
    first = driver.executor.submit(driver.batch([(line, 8)], sampling=hot))
    second = driver.executor.submit(decode_batch(driver, 8, -1))
    assert second.result().tokens.shape == (1, 1)
    assert first.result().tokens.shape == (1, 1)


def test_more_unread_steps_than_async_depth_are_refused() -> None:
    driver, line = cpu_driver(), Line(list(PROMPT), dict(TABLES))
    for _ in range(driver.executor.capabilities.async_depth):
        driver.executor.submit(driver.batch([(line, 8)]))
    with pytest.raises(InternalError, match="unread"):
        driver.executor.submit(driver.batch([(line, 8)]))


def test_a_step_that_needs_tokens_of_a_failed_one_fails_too() -> None:
    driver, line = cpu_driver(), Line([99], dict(TABLES))
    failing = driver.executor.submit(driver.batch([(line, 1)]))
    following = driver.executor.submit(decode_batch(driver, 1, -1))
    with pytest.raises(BackendError, match="token id 99"):
        failing.result()
    with pytest.raises(BackendError, match="gave no tokens"):
        following.result()


def test_a_step_that_needs_tokens_of_nobody_fails() -> None:
    driver = cpu_driver()
    with pytest.raises(BackendError, match="no step before"):
        driver.executor.submit(decode_batch(driver, 0, -1)).result()


def test_a_row_that_the_step_before_did_not_sample_is_refused() -> None:
    driver, line = cpu_driver(), Line(list(PROMPT), dict(TABLES))
    first = driver.executor.submit(driver.batch([(line, 8)]))
    batch = replace(decode_batch(driver, 8, -1), prev_row=np.array([1], np.int32))
    with pytest.raises(BackendError, match="prev_row 1"):
        driver.executor.submit(batch).result()
    first.result()


def test_use_after_close_is_an_error() -> None:
    driver, line = cpu_driver(), Line(list(PROMPT), dict(TABLES))
    batch = driver.batch([(line, 8)])
    driver.executor.close()
    driver.executor.close()
    with pytest.raises(BackendError, match="closed"):
        driver.executor.submit(batch)
    with pytest.raises(BackendError, match="closed"):
        driver.executor.read_blocks("full", np.array([0], np.int32))


def test_closing_with_steps_in_flight_does_not_hang() -> None:
    driver, line = cpu_driver(), Line(list(PROMPT), dict(TABLES))
    pending = [driver.executor.submit(driver.batch([(line, 8)])) for _ in range(2)]
    driver.executor.close()
    for step in pending:
        with pytest.raises(BackendError, match="closed before"):
            step.result()


def test_executors_side_by_side_do_not_disturb_each_other() -> None:
    expected = synchronous(4)
    found: list[list[int]] = []
    threads = [threading.Thread(target=lambda: found.append(overlapped(4))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 4


def test_an_executor_does_not_survive_fork_and_says_so() -> None:
    driver, line = cpu_driver(), Line(list(PROMPT), dict(TABLES))
    driver.step([(line, 4)])
    batch = driver.batch([(line, 4)])
    read, write = os.pipe()
    time.sleep(0.01)  # the threads are asleep when the process is copied
    child = os.fork()
    if child == 0:
        signal.alarm(30)  # whatever happens, this process does not stay
        try:
            driver.executor.submit(batch).result()
            answer = "worked"
        except BackendError as error:
            answer = error.because
        driver.executor.close()
        os.write(write, answer.encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        assert "fork" in pipe.read()
    os.waitpid(child, 0)
    driver.step([(line, 4)])  # the parent goes on


def test_the_interpreter_ends_with_an_executor_open_and_a_step_running() -> None:
    code = (
        "from tests.backends.cpu.devices import cpu_driver\n"
        "from tests.device.conftest import Line\n"
        "driver = cpu_driver()\n"
        "driver.executor.submit(driver.batch([(Line([3, 4], {'full': [3], 'sliding': [9]}), 2)]))\n"
        "print('end of the script')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, "end of the script"), done.stderr
