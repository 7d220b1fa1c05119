"""A step as one vector: what is packed comes back, bit for bit, at the sizes of a real step."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from quire.device import GroupBatch, SamplingBatch, StepBatch, StepField, StepLayout, StepShape, pack_step


def test_arrays_come_back_bit_for_bit() -> None:
    layout = StepLayout((StepField("a", (2, 3)), StepField("f", (5,), "float32"), StepField("u", (0,), "uint32")))
    arrays = {
        "a": np.array([[1, -1, 2**31 - 1], [0, -(2**31), 7]], np.int32),
        "f": np.array([np.nan, -0.0, np.inf, 1e-45, 3.5], np.float32),
        "u": np.empty(0, np.uint32),
    }
    vector = layout.pack(arrays)
    assert (vector.dtype, vector.shape, layout.size) == (np.int32, (16,), 16)
    assert [start for _, start in layout.places()] == [0, 8, 16]
    for name, array in layout.unpack(vector).items():
        assert (array.dtype, array.tobytes()) == (arrays[name].dtype, arrays[name].tobytes())


@pytest.mark.parametrize("arrays", [{}, {"a": np.zeros((3, 2), np.int32)}])
def test_a_missing_array_or_another_shape_is_refused(arrays: dict[str, np.ndarray]) -> None:
    with pytest.raises(ValueError, match=r"a is .*the layout has \(2, 3\)"):
        StepLayout((StepField("a", (2, 3)),)).pack(arrays)


def test_a_step_of_300_sequences_comes_back() -> None:
    dice, seqs = np.random.default_rng(0), 300
    lengths = dice.integers(1, 9, seqs)
    starts = np.cumsum([0, *lengths]).astype(np.int32)
    tables = {name: dice.integers(-1, 10**6, (seqs, 130)).astype(np.int32) for name in ("full", "sliding")}
    sampling = SamplingBatch(
        rows=np.arange(seqs, dtype=np.int32),
        temperature=dice.random(seqs).astype(np.float32),
        seed=dice.integers(0, 2**64, seqs, np.uint64),
        sequence_index=np.arange(seqs, dtype=np.uint32),
        position=np.arange(seqs, dtype=np.int32),
        min_p=np.full(seqs, 0.1, np.float32),
    )
    batch = StepBatch(
        step=4,
        token_ids=dice.integers(0, 128_256, starts[-1]).astype(np.int32),
        query_start_loc=starts,
        num_computed=dice.integers(0, 10**6, seqs).astype(np.int32),
        prev_row=np.full(seqs, -1, np.int32),
        groups={name: GroupBatch(table) for name, table in tables.items()},
        logits_indices=starts[1:] - 1,
        sampling=sampling,
    )
    shape = StepShape(int(starts[-1]), seqs, 130, seqs, seqs + 5, ("full", "sliding"))
    arrays = shape.layout().unpack(pack_step(batch, shape))
    for name in ("token_ids", "query_start_loc", "num_computed", "prev_row", "logits_indices"):
        np.testing.assert_array_equal(arrays[name], getattr(batch, name))
    for name, table in tables.items():
        np.testing.assert_array_equal(arrays[f"{name}.block_tables"], table)
    seed = arrays["seed_low"].astype(np.uint64) | arrays["seed_high"].astype(np.uint64) << np.uint64(32)
    np.testing.assert_array_equal(seed[:seqs], sampling.seed)
    np.testing.assert_array_equal(arrays["temperature"][:seqs], sampling.temperature)
    assert arrays["temperature"][seqs:].tolist() == [0.0] * 5, "padding rows are greedy"
    assert "positions" not in arrays
    given = pack_step(replace(batch, positions=batch.token_ids), replace(shape, positions=True))
    np.testing.assert_array_equal(replace(shape, positions=True).layout().unpack(given)["positions"], batch.token_ids)


def test_layouts_are_keys() -> None:
    shape = StepShape(8, 2, 4, 2, 2, ("full",))
    assert len({shape.layout(), replace(shape).layout(), replace(shape, tokens=9).layout()}) == 2
