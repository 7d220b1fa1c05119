"""Tokens sampled in JAX are those of the core's sampler, feature by feature."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quire.device.device_sampling import NOT_FINITE
from quire.device.step_vector import StepShape, pack_step
from quire.sampling.batch import NO_TOKEN, SamplingBatch
from quire.sampling.philox import gumbel_all
from quire.sampling.philox import philox4x32 as numpy_philox
from quire.sampling.sampler import sample as numpy_sample
from quire_tpu.philox import gumbel, philox4x32
from quire_tpu.sampler import mode_of, sample
from quire_tpu.step_inputs import unpack
from tests.device.conftest import Driver, Line, reference_driver

ROWS, VOCAB = 12, 1003


def batch_of(rng: np.random.Generator, **changes: object) -> SamplingBatch:
    fields: dict[str, object] = {
        "rows": rng.permutation(ROWS).astype(np.int32),
        "temperature": rng.choice([0.0, 0.05, 0.3, 1.0, 2.0], ROWS).astype(np.float32),
        "seed": rng.integers(0, 2**64, ROWS, dtype=np.uint64),
        "sequence_index": rng.integers(0, 4, ROWS).astype(np.uint32),
        "position": rng.integers(0, 10**6, ROWS).astype(np.int32),
    }
    return SamplingBatch(**{**fields, **changes})  # type: ignore[arg-type]


FILTERS = {
    "none": lambda rng: {},
    "top_k": lambda rng: {"top_k": rng.choice([0, 1, 2, 40, VOCAB, VOCAB + 5], ROWS).astype(np.int32)},
    "top_p": lambda rng: {"top_p": rng.choice([1.0, 0.9, 0.5, 1e-6], ROWS).astype(np.float32)},
    "min_p": lambda rng: {"min_p": rng.choice([0.0, 0.02, 0.5, 1.0], ROWS).astype(np.float32)},
}
FILTERS["all"] = lambda rng: {k: v for name in ("top_k", "top_p", "min_p") for k, v in FILTERS[name](rng).items()}

SHAPE = StepShape(tokens=1, seqs=1, blocks=1, logits=1, rows=16, groups=())


@partial(jax.jit, static_argnums=2)
def compiled(logits: jax.Array, vector: jax.Array, mode: str) -> jax.Array:
    return sample(logits, unpack(vector, SHAPE), mode)  # type: ignore[arg-type]


def drawn(logits: np.ndarray, batch: SamplingBatch) -> list[int]:
    """Packed as a step's vector, as the executor does, with the rest of the step left empty."""
    line = Line([1], {"full": [0], "sliding": [0]})
    step = Driver(reference_driver().executor).batch([(line, 1)], groups={}, sampling=batch)
    vector = pack_step(step, SHAPE)
    return compiled(jnp.asarray(logits), jnp.asarray(vector), mode_of(batch))[:ROWS].tolist()


@pytest.mark.parametrize("name", FILTERS)
def test_filters_and_draws_are_the_cores(name: str) -> None:
    for seed in range(6):
        rng = np.random.default_rng(seed)
        logits = np.round(rng.normal(0, 3, (ROWS, VOCAB)) * 4).astype(np.float32) / 4  # many ties
        batch = batch_of(rng, **FILTERS[name](rng))
        assert drawn(logits, batch) == numpy_sample(logits, batch).tokens.tolist()


def test_modes_are_the_least_that_cover_a_batch() -> None:
    rng = np.random.default_rng(0)
    assert mode_of(batch_of(rng, temperature=np.zeros(ROWS, np.float32))) == "greedy"
    assert mode_of(batch_of(rng)) == "draw"
    assert mode_of(batch_of(rng, min_p=np.zeros(ROWS, np.float32))) == "filter"


def test_nothing_to_draw_and_broken_logits_are_told_apart() -> None:
    logits = np.random.default_rng(1).normal(0, 1, (ROWS, VOCAB)).astype(np.float32)
    logits[1], logits[2, 5], logits[3, 6] = -np.inf, np.nan, np.inf
    batch = batch_of(np.random.default_rng(1), rows=np.arange(ROWS, dtype=np.int32))
    tokens = drawn(logits, batch)
    assert tokens[1:4] == [NO_TOKEN, NOT_FINITE, NOT_FINITE]
    assert min(tokens[:1] + tokens[4:]) >= 0


def test_philox_words_are_the_cores() -> None:
    words = np.random.default_rng(2).integers(0, 2**32, (6, 500), dtype=np.uint32)
    words[:, :2] = [[0, 2**32 - 1]] * 6
    expected = numpy_philox(tuple(words[:4]), tuple(words[4:]))  # type: ignore[arg-type]
    c0, c1, c2, c3, k0, k1 = map(jnp.asarray, words)
    for ours, theirs in zip(philox4x32((c0, c1, c2, c3), (k0, k1)), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_gumbel_noise_is_the_cores_to_the_last_bits() -> None:
    seed = np.array([2**63 + 12345, 7], np.uint64)
    index, position = np.array([3, 0], np.uint32), np.array([17, 2**31 - 1], np.uint32)
    halves = (seed & np.uint64(2**32 - 1)).astype(np.uint32), (seed >> np.uint64(32)).astype(np.uint32)
    ours = gumbel((jnp.asarray(halves[0]), jnp.asarray(halves[1])), jnp.asarray(index), jnp.asarray(position), VOCAB)
    np.testing.assert_allclose(ours, gumbel_all(seed, index, position, VOCAB), rtol=3e-6, atol=1e-6)
