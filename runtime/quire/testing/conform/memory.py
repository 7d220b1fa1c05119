"""L1: memory is what was said, comes back, keeps what was written, and shows nothing that was not."""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np

from quire.device.contract import KVPlan
from quire.device.dtypes import numpy_dtype
from quire.errors import BackendError
from quire.graph.kv_budget import bytes_per_block
from quire.testing.conform.case import (
    Case,
    CheckFailedError,
    Finding,
    NotApplicableError,
    require,
    require_close,
    worst_of,
)
from quire.testing.conform.lines import Lines
from quire.testing.conform.load import usable_family
from quire.testing.conform.step_bounds import expected_logits, logit_bound, require_logits
from quire.testing.conform.step_driver import Line, StepDriver
from quire.testing.conform.steps import check_lines
from quire.testing.conform.subject import Dtypes, Subject, reference_driver
from quire.testing.conform.tiny_models import tiny_model

WEIGHT_BYTES_RANGE = (0.9, 1.5)
"""Reported weight bytes over predicted ones: packing may pad, a tied embedding may not be held twice."""

_LEAK_ROUNDS = 5


def memory_level(subject: Subject) -> Iterator[Case]:
    """The cases of L1."""
    for dtype in subject.capabilities.weight_dtypes:
        yield Case(f"L1/weight_bytes/{dtype}", lambda s, dtype=dtype: _weight_bytes(s, dtype))  # type: ignore[misc]
    yield Case("L1/kv/every_block_is_there", _every_block)
    yield Case("L1/kv/too_large_is_refused", _too_large)
    yield Case("L1/create_and_close_returns_memory", _no_leak)
    for kv in subject.capabilities.kv_dtypes:
        yield Case(f"L1/pages/round_trip/{kv}", lambda s, kv=kv: _round_trip(s, kv))  # type: ignore[misc]
    for name, check in (
        ("hold_keys_and_values", _host_format),
        ("moved_to_other_blocks", _moved_pages),
        ("unwritten_slots_stay_unseen", _unwritten_slots),
        ("freed_pages_stay_unseen", _freed_pages),
    ):
        yield Case(f"L1/pages/{name}", check)


def _weight_bytes(subject: Subject, dtype: str) -> Finding:
    model = tiny_model("wide")
    if not model.ops() <= subject.capabilities.ops:
        raise NotApplicableError("the device does not declare the ops of the model that is measured")
    base = subject.default_dtypes()
    plan = subject.plan(model.graph, Dtypes(base.act, dtype, base.kv))
    weights = model.weights(plan.model)
    predicted = weights.num_elements * numpy_dtype(dtype).itemsize
    with subject.driver(plan, weights, num_blocks=2) as driver:
        report = driver.memory
    require(report.available_bytes > 0, "no memory is reported as available")
    reported = report.bytes_by_purpose.get("weights", 0)
    low, high = WEIGHT_BYTES_RANGE
    if not low <= reported / predicted <= high:
        raise CheckFailedError(
            f"{reported} bytes of weights are reported, {predicted} are predicted: a share of"
            f" {reported / predicted:.2f}, {low} to {high} is allowed"
        )
    return Finding()


def _every_block(subject: Subject) -> Finding:
    """Lines in the last blocks of the pool, highest ids first."""
    family, dtypes = usable_family(subject), subject.default_dtypes()
    with _driver(subject, family, dtypes) as driver:
        for pool, blocks in driver.free.items():
            driver.free[pool] = sorted(blocks, reverse=True)
        lines = [driver.line(tokens) for tokens in Lines(family, dtypes.weight).prompts()]
        driver.run([(line, len(line.tokens)) for line in lines])
        return check_lines(lines, family, dtypes)


def _too_large(subject: Subject) -> Finding:
    """More memory than any machine can address."""
    model = tiny_model(usable_family(subject))
    plan = subject.plan(model.graph, subject.default_dtypes())
    group = next(iter(plan.model.kv_groups.values()))
    page_bytes = bytes_per_block(group, plan.model.axis_sizes(), plan.block_size, plan.kv_dtype)
    executor = subject.create(plan)
    try:
        executor.load(model.weights(plan.model), lambda done, total: None)
        executor.allocate_kv(KVPlan(num_blocks={g.pool: 2**50 // page_bytes for g in plan.model.kv_groups.values()}))
    except BackendError:
        return Finding()
    except Exception as error:
        raise CheckFailedError(f"a cache of 2**50 bytes raises {type(error).__name__}, not BackendError") from error
    finally:
        executor.close()
    raise CheckFailedError("a cache of 2**50 bytes is taken without an error")


def _no_leak(subject: Subject) -> Finding:
    """Host memory, and the device's own where it reports it, after each of a few lives of an executor."""
    model = tiny_model("wide")
    if not model.ops() <= subject.capabilities.ops:
        raise NotApplicableError("the device does not declare the ops of the model that is measured")
    plan = subject.plan(model.graph, subject.default_dtypes())
    num_blocks = max(8, 32768 // plan.block_size)
    pages = sum(
        bytes_per_block(group, plan.model.axis_sizes(), plan.block_size, plan.kv_dtype) * num_blocks
        for group in plan.model.kv_groups.values()
    )
    one_life = model.weights(plan.model).num_elements * numpy_dtype(plan.weight_dtype).itemsize + pages
    used: list[tuple[int, int]] = []
    for _ in range(_LEAK_ROUNDS + 2):
        with subject.driver(plan, model.weights(plan.model), num_blocks=num_blocks) as driver:
            line = driver.line(range(8))
            driver.run([(line, 8)])
            del driver, line
        gc.collect()
        report = subject.plugin.probe(subject.name, subject.options)
        own = 0 if subject.capabilities.shares_host_memory else report.total_memory_bytes - report.free_memory_bytes
        used.append((_resident_bytes(), own))
    growth = max(used[-1][0] - used[1][0], used[-1][1] - used[1][1])
    allowed = one_life * _LEAK_ROUNDS // 2
    mib = 2.0**20
    require(
        growth <= allowed, f"{_LEAK_ROUNDS} executors of {one_life / mib:.1f} MiB leave {growth / mib:.1f} MiB behind"
    )
    return Finding(note=f"at most {allowed / 2**20:.0f} MiB may stay after {_LEAK_ROUNDS} lives")


def _round_trip(subject: Subject, kv: str) -> Finding:
    """Random pages come back bit for bit, and their neighbours are left alone."""
    base = subject.default_dtypes()
    family = usable_family(subject)
    with _driver(subject, family, Dtypes(base.act, base.weight, kv), poison=False) as driver:
        _needs_pages(subject)
        rng = np.random.default_rng(8)
        for group in driver.plan.model.kv_groups:
            blocks = np.array([5, 0, 7, 2], np.int32)
            rest = np.array([1, 3, 4, 6], np.int32)
            driver.executor.write_blocks(group, rest, driver.pages(group, 4, 3.0))
            pages = {
                name: rng.standard_normal(array.shape).astype(array.dtype)
                for name, array in driver.pages(group, 4, 0.0).items()
            }
            driver.executor.write_blocks(group, blocks, pages)
            order = [2, 0, 3, 1]
            back = driver.executor.read_blocks(group, blocks[order])
            neighbours = driver.executor.read_blocks(group, rest)
            require(sorted(back) == sorted(pages), f"read_blocks has arrays {sorted(back)}, not {sorted(pages)}")
            for name, page in pages.items():
                require(
                    back[name].shape == page.shape and back[name].dtype == page.dtype,
                    f"pages {name} are {back[name].dtype} {back[name].shape}, not {page.dtype} {page.shape}",
                )
                require(back[name].tobytes() == page[order].tobytes(), f"pages {name} do not come back as written")
                untouched = neighbours[name] == np.asarray(3.0, page.dtype)
                require(bool(untouched.all()), f"pages {name}: others were touched")
    return Finding()


def _host_format(subject: Subject) -> Finding:
    """After a step, pages hold every token's keys and values where the format says."""
    _needs_pages(subject)
    family, dtypes = usable_family(subject), subject.default_dtypes()
    tokens = Lines(family, dtypes.weight).prompts()[0]
    with _driver(subject, family, dtypes) as driver:
        actual = _keys_and_values(driver, tokens)
    plan = subject.plan(tiny_model(family).graph, dtypes, as_written=True)
    with reference_driver(plan, tiny_model(family).weights()) as driver:
        expected = _keys_and_values(driver, tokens)
    bound = logit_bound(family, dtypes).worst
    return worst_of([require_close(actual[key], expected[key], bound, f"pages {'/'.join(key)}") for key in expected])


def _keys_and_values(driver: StepDriver, tokens: tuple[int, ...]) -> dict[tuple[str, str], np.ndarray]:
    """(group, array) -> float32 [tokens, layers, ...], gathered by the block table."""
    line = driver.line(tokens)
    driver.run([(line, len(tokens))])
    found = {}
    for group, table in line.tables.items():
        for name, pages in driver.executor.read_blocks(group, np.array(table, np.int32)).items():
            slots = np.moveaxis(np.asarray(pages, np.float32), 1, 2)  # [n, block_size, layers, ...]
            found[group, name] = slots.reshape(-1, *slots.shape[2:])[: len(tokens)]
    return found


def _moved_pages(subject: Subject) -> Finding:
    """A line is taken to the host, its blocks poisoned, and brought back into others."""
    _needs_pages(subject)
    family, dtypes = usable_family(subject), subject.default_dtypes()
    with _driver(subject, family, dtypes) as driver:
        line = driver.line(Lines(family, dtypes.weight).prompts()[0])
        driver.run([(line, 18)])
        pages = {
            group: driver.executor.read_blocks(group, np.array(table, np.int32)) for group, table in line.tables.items()
        }
        sizes = {group: len(table) for group, table in line.tables.items()}
        driver.release(line)
        for group, size in sizes.items():
            pool = driver.plan.model.kv_groups[group].pool
            line.tables[group], driver.free[pool] = driver.free[pool][:size], driver.free[pool][size:]
            driver.executor.write_blocks(group, np.array(line.tables[group], np.int32), pages[group])
        driver.run([(line, 5)])
        return check_lines([line], family, dtypes)


def _unwritten_slots(subject: Subject) -> Finding:
    """NaN behind the last token of a partly filled block, which masked arithmetic must not touch."""
    _needs_pages(subject)
    family, dtypes = usable_family(subject), subject.default_dtypes()
    with _driver(subject, family, dtypes) as driver:
        lines = [driver.line(tokens) for tokens in Lines(family, dtypes.weight).prompts()]
        driver.run([(line, len(line.tokens) - min(2, len(line.tokens) - 1)) for line in lines])
        for line in lines:
            _poison_tail(driver, line)
        left = [(line, len(line.tokens) - line.num_computed) for line in lines]
        driver.run([(line, count) for line, count in left if count])
        return check_lines(lines, family, dtypes)


def _poison_tail(driver: StepDriver, line: Line) -> None:
    size = driver.plan.block_size
    filled = line.num_computed % size
    for group, table in line.tables.items():
        last = np.array([table[(line.num_computed - 1) // size]], np.int32)
        pages = {name: np.array(page) for name, page in driver.executor.read_blocks(group, last).items()}
        for page in pages.values():
            if filled and page.dtype != np.int8:  # quantized elements are poisoned by their scales
                page[:, :, filled:] = np.nan
        driver.executor.write_blocks(group, last, pages)


def _freed_pages(subject: Subject) -> Finding:
    """Other lines come and go, their pages are poisoned; what stays is not disturbed."""
    _needs_pages(subject)
    family, dtypes = usable_family(subject), subject.default_dtypes()
    prompts = Lines(family, dtypes.weight).prompts()
    with _driver(subject, family, dtypes) as driver:
        kept = driver.line(prompts[0])
        driver.run([(kept, 7)])
        for tokens in (prompts[3], prompts[1]):
            other = driver.line(tokens)
            driver.run([(other, len(tokens)), (kept, 3)])
            driver.release(other)
            driver.run([(kept, 2)])
        expected = expected_logits(family, dtypes, tuple(kept.tokens))[: kept.num_computed]
        return require_logits(kept.all_logits(), expected, logit_bound(family, dtypes), "the line that stays")


def _driver(
    subject: Subject, family: str, dtypes: Dtypes, *, poison: bool = True
) -> AbstractContextManager[StepDriver]:
    model = tiny_model(family)
    plan = subject.plan(model.graph, dtypes)
    return subject.driver(plan, model.weights(plan.model), seed=6, poison=poison)


def _needs_pages(subject: Subject) -> None:
    if not subject.capabilities.read_write_blocks:
        raise NotApplicableError("the device does not let the host read and write pages")


def _resident_bytes() -> int:
    """Of this process, without what its allocator keeps free: a compiler leaves a hundred MiB there, another amount
    after each life. 0 where the system does not say (outside Linux)."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return 0
    if hasattr(process := ctypes.CDLL(None), "malloc_trim"):  # glibc
        process.malloc_trim(0)
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
