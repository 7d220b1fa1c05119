"""The accuracy table: its measures are right where the answer is known, and no scheme is worse than the page says."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

from quire.device.registry import resolve_device
from tests.scripts import load_script


@pytest.fixture(scope="module")
def accuracy() -> ModuleType:
    return load_script("benchmarks/quantization_accuracy.py")


def test_measures_of_known_outputs(accuracy: ModuleType) -> None:
    prompts = [accuracy.Prompt((5, 0, 1), 1)]
    exact = accuracy.Outputs([np.log(np.array([[0.5, 0.5, 1e-9], [0.25, 0.75, 1e-9]]))], [(0, 1)], 1.0)
    other = accuracy.Outputs([np.log(np.array([[0.5, 0.5, 1e-9], [0.75, 0.25, 1e-9]]))], [(0, 0)], 0.5)
    row = accuracy.compare("x", other, exact, prompts)
    assert row.max_logit_error == pytest.approx(np.log(3))
    assert row.mean_logit_error == pytest.approx(np.log(3) / 3)
    assert row.mean_kl == pytest.approx((0.75 - 0.25) * np.log(3) / 2, abs=1e-6)
    assert row.same_top_token == 0.5
    assert row.perplexity == pytest.approx(np.sqrt(8), abs=1e-6)
    assert (row.same_greedy, row.right_answers) == (0.0, 0.0)
    same = accuracy.compare("x", exact, exact, prompts)
    assert (same.max_logit_error, same.mean_kl, same.same_greedy, same.right_answers) == (0.0, 0.0, 1.0, 1.0)
    assert "| x | 1.00 | 0.0000 | 0.00 | 0.00000 | 100.00% |" in accuracy.table([same])


@pytest.mark.parametrize(("scheme", "most_kl", "least_same"), [("int8", 1e-4, 0.99), ("int4", 5e-3, 0.98)])
def test_the_demo_model_stays_what_it_is(accuracy: ModuleType, scheme: str, most_kl: float, least_same: float) -> None:
    prompts, backend = accuracy.draw_prompts(12, 20), resolve_device("cpu")
    exact = accuracy.outputs_of(backend, None, "float32", prompts)
    row = accuracy.compare(scheme, accuracy.outputs_of(backend, scheme, "float32", prompts), exact, prompts)
    assert row.mean_kl < most_kl
    assert row.same_top_token >= least_same
    assert row.weight_mib < 0.3 * exact.weight_mib
