"""L6: a row's bits, measured: alone, in a batch, chunked, and twice; held against the class that is claimed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from quire.testing.conform.case import Case, CheckFailedError, Finding, NotApplicableError, worst_error
from quire.testing.conform.lines import plain_prompts
from quire.testing.conform.schemes import scheme_bits_cases
from quire.testing.conform.step_driver import StepDriver
from quire.testing.conform.steps import step_dtypes
from quire.testing.conform.subject import Dtypes, Subject
from quire.testing.conform.tiny_models import CONFIGS, tiny_model

_CLAIMS = {"none": 0, "run_to_run": 1, "batch_invariant": 2}


def determinism_level(subject: Subject) -> Iterator[Case]:
    """The cases of L6: what is claimed must hold for every family and dtype; what is not claimed is measured."""
    for family in CONFIGS:
        if not tiny_model(family).ops() <= subject.capabilities.ops:
            continue
        for dtypes in step_dtypes(subject):
            for level, scenarios in _SCENARIOS.items():
                for name, scenario in scenarios.items():
                    yield Case(f"L6/{family}/{level}/{name}/{dtypes}", _check(level, scenario, family, dtypes))
    yield from scheme_bits_cases(subject)


def _alone(driver: StepDriver) -> np.ndarray:
    """The first prompt whole, in a step of its own: float32 [tokens, vocab]."""
    return _first_line(driver, [0])


def _in_batch(driver: StepDriver) -> np.ndarray:
    """Behind three other prompts."""
    return _first_line(driver, [1, 3, 2, 0])


def _first_line(driver: StepDriver, order: list[int]) -> np.ndarray:
    lines = {index: driver.line(plain_prompts()[index]) for index in order}
    driver.run([(line, len(line.tokens)) for line in lines.values()])
    logits = lines[0].all_logits()
    for line in lines.values():
        driver.release(line)
    return logits


def _chunked(driver: StepDriver) -> np.ndarray:
    """In chunks of 1, 5, 8 and the rest, each beside another prompt."""
    line = driver.line(plain_prompts()[0])
    for count in (1, 5, 8, len(line.tokens) - 14):
        other = driver.line(plain_prompts()[1])
        driver.run([(other, 1 + count % 4), (line, count)])
        driver.release(other)
    logits = line.all_logits()
    driver.release(line)
    return logits


def _whole_batch(driver: StepDriver) -> np.ndarray:
    """All prompts in one step, all their rows."""
    lines = [driver.line(tokens) for tokens in plain_prompts()]
    driver.run([(line, len(line.tokens)) for line in lines])
    logits = np.concatenate([line.all_logits() for line in lines])
    for line in lines:
        driver.release(line)
    return logits


Scenario = tuple[Callable[[StepDriver], np.ndarray], Callable[[StepDriver], np.ndarray]]

_SCENARIOS: dict[str, dict[str, Scenario]] = {
    "batch_invariant": {"alone_in_batch": (_alone, _in_batch), "alone_chunked": (_alone, _chunked)},
    "run_to_run": {"same_batch_twice": (_whole_batch, _whole_batch)},
}


def _check(level: str, scenario: Scenario, family: str, dtypes: Dtypes) -> Callable[[Subject], Finding]:
    def check(subject: Subject) -> Finding:
        first, second = _measure(subject, scenario, family, dtypes)
        equal = first.tobytes() == second.tobytes()
        difference = worst_error(first, second)
        claimed = subject.capabilities.row_determinism
        if _CLAIMS[claimed] < _CLAIMS[level]:
            measured = "bits are equal all the same" if equal else "bits differ, as they may"
            raise NotApplicableError(f"{claimed} is claimed; measured: {measured}")
        if not equal:
            rows = np.flatnonzero((first != second).any(axis=1))
            raise CheckFailedError(
                f"{claimed} is claimed, but bits differ in {len(rows)} of {len(first)} rows, by"
                f" {difference:.3g} at most",
                Finding(difference, 0.0),
            )
        return Finding(difference, 0.0)

    return check


def _measure(subject: Subject, scenario: Scenario, family: str, dtypes: Dtypes) -> tuple[np.ndarray, np.ndarray]:
    model = tiny_model(family)
    plan = subject.plan(model.graph, dtypes)
    with subject.driver(plan, model.weights(plan.model), seed=4) as driver:
        return scenario[0](driver), scenario[1](driver)
