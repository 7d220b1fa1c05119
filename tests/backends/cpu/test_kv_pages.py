"""Pages of the KV cache in the host format, block copies, and groups that share a pool."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from quire.device.contract import KVPlan
from quire.device.registry import resolve_device
from quire.errors import BackendError
from tests.backends.cpu.devices import BLOCK_SIZE, cpu_driver, cpu_plan, executor_of
from tests.device.conftest import Driver, Line, make_plan

PROMPT = [int(token) for token in np.random.default_rng(7).integers(0, 50, 40)]
TABLES = {"full": [3, 1, 4], "sliding": [9, 2, 6]}
HOST_DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16, "int8": np.int8}


def i32(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


# The driver files logits under id(line); a line that is gone may give its id to a new one, so the last row counts.


def prefilled(device: str = "cpu", **changes: Any) -> Driver:
    if device == "cpu":
        driver = cpu_driver(**changes)
    else:
        driver = Driver(executor_of(device, make_plan(block_size=BLOCK_SIZE, **changes)))
    driver.step([(Line(list(PROMPT), dict(TABLES)), 40)])
    return driver


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_pages_are_those_of_the_reference(dtype: str) -> None:
    found = prefilled(kv_dtype=dtype).executor.read_blocks("full", i32(4, 3, 1))
    expected = prefilled("reference", kv_dtype=dtype).executor.read_blocks("full", i32(4, 3, 1))
    assert set(found) == {"k", "v"}
    for name in found:
        assert found[name].shape == (3, 1, BLOCK_SIZE, 2, 8)
        assert found[name].dtype == HOST_DTYPES[dtype]
        written = np.isfinite(expected[name].astype(np.float32))
        assert written.sum() == 40 * 16
        np.testing.assert_allclose(
            found[name].astype(np.float32)[written], expected[name].astype(np.float32)[written], rtol=1e-2, atol=1e-3
        )


def test_int8_pages_are_those_of_the_reference() -> None:
    found = prefilled(kv_dtype="int8").executor.read_blocks("full", i32(4, 3, 1))
    expected = prefilled("reference", kv_dtype="int8").executor.read_blocks("full", i32(4, 3, 1))
    assert set(found) == set(expected) == {"k", "v", "k_scale", "v_scale"}
    for name in ("k", "v"):
        assert found[name].shape == (3, 1, BLOCK_SIZE, 2, 8)
        assert found[name].dtype == np.int8
        scales, expected_scales = found[f"{name}_scale"], expected[f"{name}_scale"]
        written = np.isfinite(expected_scales)
        assert written.sum() == 40 * 2
        assert np.array_equal(np.isfinite(scales), written)
        np.testing.assert_allclose(scales[written], expected_scales[written], rtol=1e-5)
        steps = found[name][written].astype(int) - expected[name][written]
        assert np.abs(steps).max() <= 1
        assert (steps != 0).mean() < 0.02


def test_int8_pages_without_scales_are_refused() -> None:
    executor = prefilled(kv_dtype="int8").executor
    pages = dict(executor.read_blocks("full", i32(3)))
    del pages["k_scale"]
    with pytest.raises(BackendError, match="pages k_scale of group full are missing"):
        executor.write_blocks("full", i32(3), pages)


@pytest.mark.parametrize("dtype", HOST_DTYPES)
def test_pages_written_elsewhere_carry_the_context_there(dtype: str) -> None:
    source, target = prefilled(kv_dtype=dtype), cpu_driver(kv_dtype=dtype)
    for group, moved in (("full", i32(0, 5, 7)), ("sliding", i32(10, 11, 12))):
        target.executor.write_blocks(group, moved, source.executor.read_blocks(group, i32(*TABLES[group])))
    here = Line([*PROMPT, 5], dict(TABLES), 40)
    there = Line([*PROMPT, 5], {"full": [0, 5, 7], "sliding": [10, 11, 12]}, 40)
    source.step([(here, 1)])
    target.step([(there, 1)])
    np.testing.assert_array_equal(target.logits_of(there)[-1], source.logits_of(here)[-1])


def test_pages_are_read_after_the_steps_that_write_them() -> None:
    driver = cpu_driver()
    pending = driver.executor.submit(driver.batch([(Line(list(PROMPT), dict(TABLES)), 40)]))
    pages = driver.executor.read_blocks("full", i32(3))
    assert np.isfinite(pages["k"]).all()
    assert pending.result().tokens.shape == (1, 1)


@pytest.mark.parametrize(
    ("copies", "tables"),
    [
        ([(3, 20), (1, 21), (4, 22)], [20, 21, 22]),
        ([(3, 1), (1, 4), (4, 20)], [1, 4, 20]),  # every destination gets what its source held before
    ],
)
def test_copies_come_before_anything_else(copies: list[tuple[int, int]], tables: list[int]) -> None:
    copied, plain = prefilled(), prefilled()
    there, here = Line([*PROMPT, 5], {**TABLES, "full": tables}, 40), Line([*PROMPT, 5], dict(TABLES), 40)
    copied.step([(there, 1)], copies={"full": np.array(copies, np.int32)})
    plain.step([(here, 1)])
    np.testing.assert_array_equal(copied.logits_of(there)[-1], plain.logits_of(here)[-1])


def test_groups_of_one_pool_share_its_memory() -> None:
    executor = prefilled().executor
    full, sliding = (executor.read_blocks(group, i32(9)) for group in ("full", "sliding"))
    np.testing.assert_array_equal(full["k"], sliding["k"])


def test_a_pool_without_blocks_is_named() -> None:
    executor = resolve_device("cpu").create_executor(cpu_plan())
    with pytest.raises(BackendError, match="pool kv"):
        executor.allocate_kv(KVPlan(num_blocks={"other": 3}))


def test_pages_of_another_shape_are_refused() -> None:
    executor = prefilled().executor
    pages = executor.read_blocks("full", i32(3))
    with pytest.raises(BackendError, match="pages k"):
        executor.write_blocks("full", i32(3, 4), pages)
    with pytest.raises(BackendError, match="block id 24"):
        executor.read_blocks("full", i32(24))
