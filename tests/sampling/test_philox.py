from __future__ import annotations

import numpy as np
import pytest

from quire.sampling.philox import GUMBEL_MAX, U_MAX, _gumbel_of_bits, gumbel, gumbel_all, philox4x32

# The known answers published with the Random123 library for philox4x32 with 10 rounds: counter, key, result.
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_published_known_answers(counter: str, key: str, answer: str) -> None:
    c, k = words(counter), words(key)
    result = philox4x32((c[0], c[1], c[2], c[3]), (k[0], k[1]))
    assert [int(word[0]) for word in result] == words(answer)


def test_counters_and_keys_broadcast() -> None:
    c, k = zip(*[(words(counter), words(key)) for counter, key, _ in KNOWN_ANSWERS], strict=True)
    columns, keys = np.array(c, np.uint32).T, np.array(k, np.uint32).T
    result = philox4x32((columns[0], columns[1], columns[2], columns[3]), (keys[0], keys[1]))
    assert np.stack(result, axis=1).tolist() == [words(answer) for _, _, answer in KNOWN_ANSWERS]


def test_gumbel_follows_its_definition() -> None:
    seed, sequence_index, position, token = 0x0123456789ABCDEF, 3, 77, 1002
    words_ = philox4x32((token >> 2, position, sequence_index, 0), (0x89ABCDEF, 0x01234567))
    uniform = (float(int(words_[token & 3][0]) >> 8) + 0.5) * 2.0**-24
    noise = gumbel(np.uint64(seed), sequence_index, position, token)
    assert noise.dtype == np.float32
    assert noise[0] == pytest.approx(-np.log(-np.log(uniform)), rel=1e-5)


@pytest.mark.parametrize("vocab_size", [1, 3, 4, 5, 2047, 40_001])
def test_all_tokens_at_once_is_the_same_noise(vocab_size: int) -> None:
    seed = np.array([1, 2**63 + 5], np.uint64)
    sequence_index, position = np.array([0, 4], np.uint32), np.array([9, 2**31 - 1], np.int32)
    together = gumbel_all(seed, sequence_index, position, vocab_size)
    assert together.shape == (2, vocab_size)
    alone = [gumbel(seed[row], sequence_index[row], position[row], np.arange(vocab_size)) for row in range(2)]
    np.testing.assert_array_equal(together, np.stack(alone))


def test_every_part_of_the_key_matters() -> None:
    base = gumbel(np.uint64(5), 0, 10, np.arange(64))
    others = [(np.uint64(6), 0, 10), (np.uint64(5 + 2**32), 0, 10), (np.uint64(5), 1, 10), (np.uint64(5), 0, 11)]
    for seed, sequence_index, position in others:
        assert not np.any(base == gumbel(seed, sequence_index, position, np.arange(64)))


def test_noise_is_finite_at_both_ends() -> None:
    ends = _gumbel_of_bits(np.array([0, 0xFFFFFFFF, 0xFFFFFEFF], np.uint32))
    assert np.isfinite(ends).all()
    assert ends[1] == -np.log(-np.log(U_MAX))
    assert ends[1] < GUMBEL_MAX
    assert U_MAX < 1


def test_moments_are_those_of_gumbel() -> None:
    noise = gumbel_all(np.uint64(2024), 0, 0, 200_000).astype(np.float64)
    assert noise.mean() == pytest.approx(np.euler_gamma, abs=0.02)
    assert noise.var() == pytest.approx(np.pi**2 / 6, rel=0.03)
