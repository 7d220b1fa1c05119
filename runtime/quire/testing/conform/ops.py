"""L2: every op that the device declares, against the reference, in every dtype that it declares."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from quire.device.contract import MemoryReport
from quire.ops import DECLARED
from quire.testing.conform.case import Case, Finding, NotApplicableError, require, require_close
from quire.testing.conform.op_case import OpCase, op_model, op_weights
from quire.testing.conform.op_cases import fixed_cases, tolerance
from quire.testing.conform.op_draws import drawn_cases, hypothesis_version
from quire.testing.conform.schemes import scheme_op_cases
from quire.testing.conform.step_driver import Chunk, StepDriver
from quire.testing.conform.subject import Subject, reference_driver

DRAWN_PER_OP = 6


def op_level(subject: Subject, seed: int, extra: tuple[OpCase, ...] = ()) -> Iterator[Case]:
    """The cases of L2; `extra` are those of a real checkpoint's shapes."""
    capabilities = subject.capabilities
    for op in sorted(DECLARED):
        why_not = _not_applicable(op, subject)
        if why_not:
            yield Case(f"L2/{op}", _refuse(why_not))
            continue
        for name in DECLARED[op].spec.features:
            if (feature := f"{op}.{name}") not in capabilities.op_features:
                yield Case(f"L2/{op}/{name}", _refuse(f"the device does not declare {feature}"))
        cases = list(fixed_cases(op, capabilities, seed))
        if hypothesis_version() is None:
            yield Case(f"L2/{op}/drawn", _refuse("hypothesis is not installed, no shapes are drawn"))
        else:
            cases += drawn_cases(op, capabilities, seed, DRAWN_PER_OP)
        for case in cases:
            yield as_case(case)
    yield from scheme_op_cases(subject, seed)
    for case in extra:
        if not _not_applicable(case.op, subject):
            yield as_case(case)


def as_case(case: OpCase) -> Case:
    """The check of one op case."""
    return Case(case.name, lambda subject: check_op(subject, case), case.op, case.dtypes.act)


def check_op(subject: Subject, case: OpCase) -> Finding:
    """The results of every row of every line, prefixes included, against the reference's."""
    body = DECLARED[case.op].kit.body(case)
    model = op_model(case, body)
    weights = op_weights(case, model, body)
    plan = subject.op_plan(model, case.dtypes)
    with reference_driver(plan, weights) as driver:
        expected = run_op(driver, case)
    with subject.driver(plan, weights, seed=case.seed) as driver:
        require_on_device(subject, driver.memory, case.op)
        actual = run_op(driver, case)
    columns = slice(0, body.out_width)
    return require_close(actual[:, columns], expected[:, columns], tolerance(case), f"op {case.op}")


def require_on_device(subject: Subject, memory: MemoryReport, op: str) -> None:
    """Raises CheckFailedError unless the placement table has the op on the device itself."""
    places = {where for name, where in memory.placement if name == op}
    require(bool(places), f"the placement table does not list {op}")
    require("reference" not in places or subject.name == "reference", f"{op} is declared, but runs on the reference")


def run_op(driver: StepDriver, case: OpCase) -> np.ndarray:
    """float32 [rows, vocab]: prefixes in chunks, then one step of all lines."""
    first, lines = 0, []
    for before, new in case.lines:
        lines.append((driver.line(range(first, first + before + new)), before, new))
        first += before + new
    most = driver.plan.max_num_batched_tokens
    for line, before, _ in lines:
        for start in range(0, before, most):
            driver.run([(line, min(most, before - start))])
    step = [(line, new) for line, _, new in lines]
    if DECLARED[case.op].kit.shuffles_rows:
        return _run_shuffled(driver, case, step)
    driver.run(step)
    return np.concatenate([line.all_logits() for line, _, _ in lines])


def _run_shuffled(driver: StepDriver, case: OpCase, step: Sequence[Chunk]) -> np.ndarray:
    """The step's rows out of order, some of them twice."""
    num_rows = sum(new for _, new in step)
    rows = np.random.default_rng(case.seed).integers(0, num_rows, num_rows).astype(np.int32)
    batch = driver.batch(step, logits_indices=rows, sampling=None)
    result = driver.executor.submit(batch).result()
    return np.asarray(result.logits, np.float32)


def _not_applicable(op: str, subject: Subject) -> str:
    declared = subject.capabilities.ops | subject.capabilities.fused_ops
    return "" if op in declared else "the device does not declare it"


def _refuse(reason: str) -> Callable[[Subject], Finding]:
    def check(_: Subject) -> Finding:
        raise NotApplicableError(reason)

    return check
