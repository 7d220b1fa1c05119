"""Lines of a mixture of experts: no choice on them is close, in any dtype, so that every row can be judged."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from quire.device.contract import KVPlan
from quire.device.graph_executor import GraphExecutor
from quire.testing.conform import level_cases, run_case, subject_of
from quire.testing.conform.lines import Lines, plain_prompts
from quire.testing.conform.routing import ROUTER_MARGIN, RouterLibrary, router_margin, routes
from quire.testing.conform.scheduling import scheduling_families
from quire.testing.conform.step_driver import StepDriver
from quire.testing.conform.subject import Dtypes
from quire.testing.conform.tiny_models import CONFIGS, reference_plan, tiny_model

STEPS = 8


def routed(dtypes: Dtypes, line: tuple[int, ...], num_greedy: int = 0) -> tuple[list[np.ndarray], int, list[int]]:
    """Router scores of a line by layer, experts chosen, and the likeliest tokens that follow."""
    library, plan = RouterLibrary(), reference_plan("mixtral", dtypes)
    executor = GraphExecutor(library, plan)
    memory = executor.load(tiny_model("mixtral").weights(), lambda done, total: None)
    executor.allocate_kv(KVPlan(num_blocks={group.pool: 8 for group in plan.model.kv_groups.values()}))
    driver = StepDriver(executor, plan, 8, memory)
    sequence = driver.line(line)
    driver.run([(sequence, len(line))])
    scores = [seen for seen, _ in library.seen]
    for _ in range(num_greedy):
        sequence.tokens.append(int(np.argmax(sequence.logits[-1])))
        driver.run([(sequence, 1)])
    return scores, library.seen[0][1], sequence.tokens[len(line) :]


def all_lines(weight: str) -> list[tuple[int, ...]]:
    lines = Lines("mixtral", weight)
    first, long = lines.prompts()[0], lines.long(16)
    return [
        *lines.prompts(),
        long,
        (*long[:16], *lines.after(long[:16], first)),
        (*first[:6], *lines.after(first[:6], lines.prompts()[3])),
    ]


@pytest.mark.parametrize("weight", ["float32", "bfloat16"])
def test_every_choice_on_a_line_is_clear(weight: str) -> None:
    for line in all_lines(weight):
        scores, k, _ = routed(Dtypes("float32", weight, "float32"), line)
        assert min(router_margin(layer[row : row + 1], k) for layer in scores for row in range(len(line))) > 0.5 * (
            ROUTER_MARGIN
        )  # relative to the rms of one row here, of a step there
    assert (
        min(
            router_margin(layer, 2)
            for line in plain_prompts()
            for layer in routed(Dtypes("float32", weight, "float32"), line)[0]
        )
        < ROUTER_MARGIN
    ), "no line needed it"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rounding_changes_no_choice_and_moves_scores_by_less_than_the_margin(dtype: str) -> None:
    for line in all_lines(dtype):
        exact, k, _ = routed(Dtypes("float32", dtype, "float32"), line)
        rounded, _, _ = routed(Dtypes(dtype, dtype, dtype), line)
        for right, seen in zip(exact, rounded, strict=True):
            chosen = [np.sort(np.argsort(-scores, axis=1)[:, :k], axis=1) for scores in (right, seen)]
            assert np.array_equal(*chosen)
            moved = np.sqrt(np.mean((right - seen) ** 2) / np.mean(right**2))
            assert moved < 0.02 < ROUTER_MARGIN / 3


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_every_dtype_goes_on_with_the_same_tokens(dtype: str) -> None:
    for line in Lines("mixtral", dtype).to_continue(STEPS):
        *_, right = routed(Dtypes("float32", dtype, "float32"), line, STEPS)
        *_, drawn = routed(Dtypes(dtype, dtype, dtype), line, STEPS)
        assert drawn == right


@pytest.mark.parametrize("family", CONFIGS)
def test_lines_of_models_without_experts_are_left_as_they_are(family: str) -> None:
    assert routes(family) == (family == "mixtral")
    assert (Lines(family, "float32").prompts() == plain_prompts()) != routes(family)


def test_scheduling_runs_experts_in_float32_only() -> None:
    """Its lines are what the device draws, so nobody can keep them clear."""
    subject = subject_of("reference")
    only = replace(subject, capabilities=replace(subject.capabilities, ops=tiny_model("mixtral").ops()))
    assert scheduling_families(only) == ["mixtral"]
    half = replace(only, capabilities=replace(only.capabilities, act_dtypes=("bfloat16",)))
    assert scheduling_families(half) == []
    (case,) = level_cases(half, ["L4"])
    assert run_case(case, half).status == "not applicable"


def test_the_margin_is_the_gap_behind_the_last_choice() -> None:
    scores = np.array([[3.0, 1.0, 0.0, 0.0], [0.0, 2.0, 0.0, 2.0]])
    assert router_margin(scores, 2) == pytest.approx(1.0 / np.sqrt(18 / 8))
    assert router_margin(scores, 1) == 0.0
    assert router_margin(scores, 4) == float("inf")
