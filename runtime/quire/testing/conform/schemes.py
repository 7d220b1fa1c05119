"""L2, L3 and L6 of quantization schemes: every scheme that a device declares, on linears, experts and tiny models.

The reference multiplies what the integers stand for; a device may round activations to integers too. Such errors are
random, so what is bounded is their root mean square over that of the result; the bounds leave room for activations of
eight bits with a scale for each row and 32 inputs. A row's bits are held to the claimed class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from quire.device.contract import WeightSource
from quire.graph.ir import ModelGraph, Weight
from quire.graph.passes.assign_schemes import assign_schemes, matrices
from quire.ops import DECLARED
from quire.testing.conform.case import Case, CheckFailedError, Finding, NotApplicableError, worst_error
from quire.testing.conform.op_case import OpCase, op_model, op_weights
from quire.testing.conform.random_weights import RandomWeights
from quire.testing.conform.step_driver import StepDriver
from quire.testing.conform.subject import Subject, reference_driver
from quire.testing.conform.tiny_models import VOCAB, tiny_model
from quire.weights.schemes import PLAIN, QuantizedMatrix, WeightScheme, quantize

OP_BOUND = {"linear": 1e-2, "experts": 2e-2}
"""Op -> allowed rms(a - b) / rms(b). The largest of 32 normal numbers is near 2.1, so that rounding in steps of 1/127
of it is off by 2.1 / 127 / sqrt(12) = 0.5 % in the mean of a linear; experts are two linears in a row."""

LOGIT_BOUND = 5e-2
"""The same of logits after two layers of tiny models."""

_SHAPES: dict[str, tuple[str, dict[str, int], dict[str, Any], dict[str, Any]]] = {
    "one_row": ("linear", {"width": 256, "out": 33}, {}, {"lines": ((0, 1),)}),
    "short_last_group": ("linear", {"width": 300, "out": 17, "bias": 1}, {}, {"lines": ((0, 7),)}),
    "many_rows": ("linear", {"width": 128, "out": 40}, {}, {"lines": ((0, 65),)}),
    "f32_result": ("linear", {"width": 96, "out": 24, "in_head": 1}, {}, {}),
    "outliers": ("linear", {"width": 160, "out": 16}, {}, {"spread": 100.0}),
    "experts": ("experts", {"width": 64, "mlp": 96, "experts": 4}, {"k": 2}, {}),
}
"""Variant -> op, sizes, attributes, further fields of OpCase."""

_FAMILIES = ("qwen3", "gpt2")
"""A tied head whose embedding reads rows of the same integers; biases. Experts are in the op cases and in L6."""

_LENGTHS = (23, 9, 1, 14)


def scheme_op_cases(subject: Subject, seed: int) -> Iterator[Case]:
    """L2: each scheme on each shape, rounded by the device and given in integers."""
    for name in _declared(subject):
        for variant, (op, sizes, attrs, fields) in _SHAPES.items():
            case = OpCase(op, variant, sizes, attrs, subject.default_dtypes(), seed=seed, **fields)
            for source in ("rounded", "stored"):
                yield Case(f"L2/{op}/{name}/{variant}/{source}", _op_check(case, name, source), op, name)


def scheme_step_cases(subject: Subject) -> Iterator[Case]:
    """L3: whole steps of tiny models in each scheme."""
    for name in _declared(subject):
        for family in _FAMILIES:
            if tiny_model(family).ops() <= subject.capabilities.ops:
                yield Case(f"L3/{family}/{name}/chunked", _step_check(family, name), "logits", name)


def scheme_bits_cases(subject: Subject) -> Iterator[Case]:
    """L6: a row's bits in each scheme, alone, behind other rows, in chunks, and behind a cached prefix."""
    for name in _declared(subject):
        for family in ("qwen3", "mixtral"):
            if tiny_model(family).ops() <= subject.capabilities.ops:
                for what, scenario in _SCENARIOS.items():
                    yield Case(f"L6/{family}/{name}/{what}", _bits_check(family, name, scenario))


class _StoredIntegers(WeightSource):
    """A WeightSource whose matrices exist in integers only: rounding what they stand for would give others."""

    fingerprint = ""

    def __init__(self, weights: RandomWeights) -> None:
        self._weights = weights
        self.total_bytes = weights.total_bytes

    def read(self, weight: Weight) -> np.ndarray:
        if weight.scheme != PLAIN:
            raise CheckFailedError(f"weight {weight.name} is read dequantized; the checkpoint holds its integers")
        return self._weights.read(weight)

    def read_quantized(self, weight: Weight) -> QuantizedMatrix | None:
        array, scheme = self._weights.read(weight), WeightScheme.parse(weight.scheme)
        matrix = quantize(array.reshape(-1, array.shape[-1]), scheme)
        low, high = scheme.levels
        values = np.clip(matrix.values, low + 1, high - 1)
        zeros = None if matrix.zeros is None else matrix.zeros + np.float32(0.5)  # files hold fractions too
        return QuantizedMatrix(scheme, values, matrix.scales, zeros)


def _declared(subject: Subject) -> list[str]:
    return sorted(subject.capabilities.weight_schemes - {PLAIN})


def _quantized(model: ModelGraph, name: str) -> ModelGraph:
    """The model with every matrix but routers in the scheme."""
    return assign_schemes(model, lambda weight, role: PLAIN if role == "router" else name)


def _op_check(case: OpCase, name: str, source: str) -> Callable[[Subject], Finding]:
    def check(subject: Subject) -> Finding:
        if case.op not in subject.capabilities.ops:
            raise NotApplicableError("the device does not declare it")
        body = DECLARED[case.op].kit.body(case)
        plain = op_model(case, body)
        ours = {
            found
            for found, (weight, role) in matrices(plain).items()
            if role != "router" and weight.name in ("w", "w13", "w2")
        }
        model = assign_schemes(plain, lambda weight, role: name if weight.source in ours else PLAIN)
        random = op_weights(case, model, body)
        weights: WeightSource = random if source == "rounded" else _StoredIntegers(random)
        plan = subject.plan(model, case.dtypes, as_written=True)
        with reference_driver(plan, weights) as driver:
            expected = _all_rows(driver, case)
        with subject.driver(plan, weights, seed=case.seed) as driver:
            actual = _all_rows(driver, case)
        columns = slice(0, body.out_width)
        return _require_near(actual[:, columns], expected[:, columns], OP_BOUND[case.op], f"op {case.op} in {name}")

    return check


def _require_near(actual: np.ndarray, expected: np.ndarray, bound: float, what: str) -> Finding:
    if actual.shape != expected.shape:
        raise CheckFailedError(f"{what}: shape {actual.shape}, expected {expected.shape}")
    difference = actual.astype(np.float64) - expected
    error = float(np.sqrt(np.mean(difference**2) / np.mean(expected.astype(np.float64) ** 2)))
    if not error <= bound:
        raise CheckFailedError(f"{what}: rms error {error:.3g}, at most {bound:.3g} is allowed", Finding(error, bound))
    return Finding(error, bound)


def _all_rows(driver: StepDriver, case: OpCase) -> np.ndarray:
    line = driver.line(range(case.num_rows))
    driver.run([(line, case.num_rows)])
    return line.all_logits()


def _step_check(family: str, name: str) -> Callable[[Subject], Finding]:
    def check(subject: Subject) -> Finding:
        model, dtypes = tiny_model(family), subject.default_dtypes()
        graph = _quantized(model.graph, name)
        with reference_driver(subject.plan(graph, dtypes, as_written=True), model.weights(graph)) as driver:
            expected = _in_chunks(driver)
        plan = subject.plan(graph, dtypes)
        with subject.driver(plan, model.weights(plan.model), seed=1) as driver:
            return _require_near(_in_chunks(driver), expected, LOGIT_BOUND, f"logits of {family} in {name}")

    return check


def _in_chunks(driver: StepDriver) -> np.ndarray:
    """Two prompts of which one is cut, the rest in one step: logits of every token."""
    lines = [driver.line(tokens) for tokens in _prompts()]
    driver.run([(lines[0], 10), (lines[1], 9)])
    driver.run([(line, len(line.tokens) - line.num_computed) for line in (*lines[2:], lines[0])])
    return np.concatenate([line.all_logits() for line in lines])


def _prompts() -> tuple[tuple[int, ...], ...]:
    rng = np.random.default_rng(17)
    return tuple(tuple(int(token) for token in rng.integers(0, VOCAB, length)) for length in _LENGTHS)


# ---- bits -----------------------------------------------------------------------------------------------


def _alone(driver: StepDriver) -> np.ndarray:
    line = driver.line(_prompts()[0])
    driver.run([(line, len(line.tokens))])
    return _released(driver, line)


def _in_batch(driver: StepDriver) -> np.ndarray:
    others = [driver.line(_prompts()[index]) for index in (1, 3, 2)]
    line = driver.line(_prompts()[0])
    driver.run([(other, len(other.tokens)) for other in (*others, line)])
    for other in others:
        driver.release(other)
    return _released(driver, line)


def _chunked(driver: StepDriver) -> np.ndarray:
    line = driver.line(_prompts()[0])
    for count in (1, 1, 6, len(line.tokens) - 8):
        driver.run([(line, count)])
    return _released(driver, line)


def _cached_prefix(driver: StepDriver) -> np.ndarray:
    """The first block of another line's cache, then the rest."""
    size = driver.plan.block_size
    if size >= _LENGTHS[0]:
        raise NotApplicableError(f"blocks of {size} tokens are longer than the prompt")
    first = driver.line(_prompts()[0])
    driver.run([(first, size)])
    line = driver.line(_prompts()[0])
    line.tables = {name: table[:1] for name, table in first.tables.items()}
    line.num_computed = size
    line.logits.extend(first.logits)
    driver.run([(line, len(line.tokens) - size)])
    return line.all_logits()


def _released(driver: StepDriver, line: Any) -> np.ndarray:
    logits: np.ndarray = line.all_logits()
    driver.release(line)
    return logits


_SCENARIOS = {"in_batch": _in_batch, "chunked": _chunked, "cached_prefix": _cached_prefix}


def _bits_check(family: str, name: str, scenario: Callable[[StepDriver], np.ndarray]) -> Callable[[Subject], Finding]:
    def check(subject: Subject) -> Finding:
        model, claimed = tiny_model(family), subject.capabilities.row_determinism
        plan = subject.plan(_quantized(model.graph, name), subject.default_dtypes())
        with subject.driver(plan, model.weights(plan.model), seed=4) as driver:
            first, second = _alone(driver), scenario(driver)
        difference = worst_error(first, second)
        if claimed != "batch_invariant":
            raise NotApplicableError(f"{claimed} is claimed; measured: a difference of {difference:.3g}")
        if first.tobytes() != second.tobytes():
            raise CheckFailedError(
                f"{claimed} is claimed, but bits differ by {difference:.3g} at most", Finding(difference, 0.0)
            )
        return Finding(difference, 0.0)

    return check
