"""Where a mixture of experts comes near a tie: found with the reference, before any device is asked.

Two experts that score nearly alike may change places by a rounding; then either choice is right and the token's
logits differ wholly. So the lines of a model with experts are chosen: a token that brings a router of any layer
within ROUTER_MARGIN of a tie is replaced by the next one that does not. The reference alone decides, in float32
activations; what a device does changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np

from quire.device.contract import ExecutorPlan, Kernel, KVPlan, StepContext
from quire.device.graph_executor import GraphExecutor
from quire.errors import InternalError
from quire.graph.ir import Graph, Node
from quire.reference.device import ReferenceLibrary
from quire.testing.conform.step_driver import Line, StepDriver
from quire.testing.conform.subject import Dtypes
from quire.testing.conform.tiny_models import VOCAB, reference_plan, tiny_model

ROUTER_MARGIN = 0.08
"""Least gap between the score of the last expert that is chosen and the first that is not, over the scores' rms.

Rounding to bfloat16 moves a score of these models by 0.014 rms (`tests/testing/conform/test_routing.py`), a gap thus by
0.02: this is four times that.
"""

TOKEN_MARGIN = 0.06
"""Least gap between the two best logits where a line goes on with the likeliest token, over the logits' rms."""

_TRIES = 4000


def routes(family: str) -> bool:
    """Whether the family's model chooses experts."""
    return "route_experts" in tiny_model(family).ops()


@lru_cache(maxsize=64)
def clear_tokens(family: str, weight_dtype: str, prefix: tuple[int, ...], tokens: tuple[int, ...]) -> tuple[int, ...]:
    """`tokens`, to follow `prefix`, with each replaced by the next one that is clear of ties."""
    with _router_driver(family, weight_dtype) as (driver, routers):
        line = driver.line(prefix)
        if prefix:
            driver.run([(line, len(prefix))])
        for token in tokens:
            _append_clear(driver, routers, line, token)
        return tuple(line.tokens[len(prefix) :])


@lru_cache(maxsize=64)
def clear_greedy_start(family: str, weight_dtype: str, tokens: tuple[int, ...], num_greedy: int) -> tuple[int, ...]:
    """Like `clear_tokens`, with last tokens such that `num_greedy` likeliest tokens that follow are clear as well.

    These tokens are clear choices too, so that a device in any dtype goes on with the same ones.
    """
    with _router_driver(family, weight_dtype) as (driver, routers):
        line = driver.line([])
        for token in tokens[:-2]:
            _append_clear(driver, routers, line, token)
        for number in range(min(_TRIES, VOCAB * VOCAB)):
            _cut(line, len(tokens) - 2)
            ends = ((tokens[-2] + number // VOCAB) % VOCAB, (tokens[-1] + number) % VOCAB)
            clear = all(_try(driver, routers, line, token) for token in ends)
            if clear and _goes_on(driver, routers, line, num_greedy):
                return tuple(line.tokens[: len(tokens)])
    raise InternalError(f"no clear line of {len(tokens)} tokens for {family}", because=f"{_TRIES} were tried")


def router_margin(scores: np.ndarray, k: int) -> float:
    """The least gap of any row of router scores [rows, experts] between places k and k + 1, over the rms of all."""
    ordered = -np.sort(-np.asarray(scores, np.float64), axis=1)
    if k >= ordered.shape[1]:
        return float("inf")
    return float((ordered[:, k - 1] - ordered[:, k]).min() / np.sqrt(np.mean(ordered**2)))


class RouterLibrary(ReferenceLibrary):
    """The reference, which keeps what the routers of the last steps saw.

    Attributes:
        seen: (scores float32 [rows, experts], experts chosen), in the order of the calls.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[np.ndarray, int]] = []

    def lower(self, node: Node, graph: Graph, plan: ExecutorPlan) -> Kernel:
        """The reference's kernel; that of a router keeps its input."""
        kernel = super().lower(node, graph, plan)
        if node.op != "route_experts":
            return kernel
        k = int(dict(node.attrs)["k"])

        def recorded(context: StepContext, inputs: tuple[Any, ...], weights: tuple[Any, ...]) -> tuple[Any, ...]:
            self.seen.append((np.array(inputs[0], np.float32), k))
            return kernel(context, inputs, weights)

        return recorded


@contextmanager
def _router_driver(family: str, weight_dtype: str) -> Iterator[tuple[StepDriver, RouterLibrary]]:
    library = RouterLibrary()
    plan = reference_plan(family, Dtypes("float32", weight_dtype, "float32"))
    executor = GraphExecutor(library, plan)
    memory = executor.load(tiny_model(family).weights(), lambda done, total: None)
    executor.allocate_kv(KVPlan(num_blocks={group.pool: 64 for group in plan.model.kv_groups.values()}))
    yield StepDriver(executor, plan, 64, memory), library
    executor.close()


def _append_clear(driver: StepDriver, routers: RouterLibrary, line: Line, token: int) -> None:
    for number in range(VOCAB):
        if _try(driver, routers, line, (token + number) % VOCAB):
            return
    raise InternalError(f"every token leads to a near tie of experts after {line.tokens}")


def _try(driver: StepDriver, routers: RouterLibrary, line: Line, token: int) -> bool:
    """Appends a token; takes it back where it comes near a tie."""
    routers.seen.clear()
    line.tokens.append(token)
    driver.run([(line, 1)])
    if all(router_margin(scores, k) >= ROUTER_MARGIN for scores, k in routers.seen):
        return True
    _cut(line, len(line.tokens) - 1)
    return False


def _cut(line: Line, length: int) -> None:
    """The line as it was at a length; what follows is written over."""
    del line.tokens[length:], line.logits[length:]
    line.num_computed = min(line.num_computed, length)


def _goes_on(driver: StepDriver, routers: RouterLibrary, line: Line, num_greedy: int) -> bool:
    for _ in range(num_greedy):
        logits = line.logits[-1]
        second, best = np.sort(logits)[-2:]
        if best - second < TOKEN_MARGIN * np.sqrt(np.mean(logits**2)):
            return False
        if not _try(driver, routers, line, int(np.argmax(logits))):
            return False
    return True
