from __future__ import annotations

from quire.bench.core import run_core_bench


def test_the_bench_times_decode_steps_of_every_sequence() -> None:
    result = run_core_bench(num_seqs=4, num_steps=6, prompt_len=10, block_size=4)
    assert (result["num_seqs"], result["num_steps"]) == (4, 6)
    assert 0.0 < result["min_s"] <= result["median_s"] <= result["p90_s"]
