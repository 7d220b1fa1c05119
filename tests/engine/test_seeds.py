from __future__ import annotations

from quire.engine.seeds import derive_seed


def test_seeds_differ_by_engine_and_number_and_are_fixed() -> None:
    seeds = {derive_seed(engine, number) for engine in range(10) for number in range(100)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**64 for seed in seeds)
    assert derive_seed(0, 0) == 7120306904099482837
