"""Rotary tables that grow: the same bits, however many rows are made at a time."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from quire.graph.rope import FIRST_ROPE_ROWS, RopeSpec, rope_rows, rope_table

SPECS = [
    RopeSpec(theta=10000.0, dims=24),
    RopeSpec(theta=1e6, dims=64, scaling="linear", factor=3.0),
    RopeSpec(theta=5e5, dims=128, scaling="yarn", factor=4.0, original_max_len=4096, attention_factor=1.1),
]


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("cuts", [(0, 1, 4, 77, 5000), (0, 2048, 5000), (0, 4999, 5000)])
def test_rows_do_not_depend_on_how_many_there_are(spec: RopeSpec, cuts: tuple[int, ...]) -> None:
    whole = rope_table(spec, 5000)
    pieces = [rope_table(spec, stop - first, first) for first, stop in pairwise(cuts)]
    for column in (0, 1):
        joined = np.concatenate([piece[column] for piece in pieces])
        assert joined.tobytes() == whole[column].tobytes()


def test_rows_far_out_are_the_same() -> None:
    spec = SPECS[0]
    far = rope_table(spec, 50, 999_950)
    angle = np.arange(1_000_000, dtype=np.float32)[-50:, None] * spec.inv_freq()
    assert far[0].tobytes() == np.cos(angle).tobytes()


def test_few_sizes() -> None:
    assert rope_rows(1, 100) == 100
    assert rope_rows(5, 10**6) == FIRST_ROPE_ROWS
    assert rope_rows(FIRST_ROPE_ROWS, 10**6) == FIRST_ROPE_ROWS
    assert rope_rows(FIRST_ROPE_ROWS + 1, 10**6) == 2 * FIRST_ROPE_ROWS
    assert rope_rows(600_000, 10**6) == 10**6
    assert len({rope_rows(position, 10**6) for position in range(1, 10**6, 997)}) < 10
