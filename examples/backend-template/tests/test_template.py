"""Beside the conformance kit, whose cases `--quire-device NAME` adds: what only this package promises."""

from __future__ import annotations

import numpy as np
import pytest

from quire.device import NOT_FINITE, BackendError
from quire.testing.conform.subject import subject_of
from quire.testing.conform.tiny_models import tiny_model


def test_a_long_decode_has_few_shapes() -> None:
    subject, model = subject_of("template_step"), tiny_model("qwen3")
    plan = subject.plan(model.graph, subject.default_dtypes())
    with subject.driver(plan, model.weights(plan.model)) as driver:
        line = driver.line(np.arange(40))
        driver.run([(line, 16)])
        for _ in range(24):
            driver.run([(line, 1)])
        assert driver.executor.shapes == {(16, 2, 128), (16, 2, 2)}


@pytest.mark.parametrize("device", ["template_ops", "template_step"])
def test_broken_logits_end_their_own_row_only(device: str) -> None:
    subject, model = subject_of(device), tiny_model("qwen3")
    plan = subject.plan(model.graph, subject.default_dtypes())
    with subject.driver(plan, model.weights(plan.model)) as driver:
        broken, healthy = driver.line([1, 2, 3, 4]), driver.line([5, 6, 7])
        driver.run([(broken, 3)])
        for name, group in plan.model.kv_groups.items():
            driver.poison(group.pool, broken.tables[name])  # what it has in the cache becomes NaN
        tokens = driver.run([(broken, 1), (healthy, 3)]).tokens[:, 0]
        assert tokens[0] == NOT_FINITE
        assert tokens[1] == healthy.logits[-1].argmax()


def test_experts_run_on_the_reference_and_it_is_said() -> None:
    subject, model = subject_of("template_ops"), tiny_model("mixtral")
    plan = subject.plan(model.graph, subject.default_dtypes(), strict=False)
    with subject.driver(plan, model.weights(plan.model)) as driver:
        driver.run([(driver.line([1, 2, 3]), 3)])
        lent = {op for op, where in driver.memory.placement if where == "reference"}
    assert lent == {"experts", "route_experts"}


@pytest.mark.parametrize("device", ["template_ops", "template_step"])
def test_experts_are_refused_where_they_cannot_run(device: str) -> None:
    subject, model = subject_of(device), tiny_model("mixtral")
    with pytest.raises(BackendError, match="does not implement experts"):
        subject.create(subject.plan(model.graph, subject.default_dtypes(), strict=True))
