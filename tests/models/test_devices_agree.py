"""Every family on every device through the engine core: what else the core did must not show in the tokens.

Alone in a roomy cache, in chunks among others, after a hit in the prefix cache, after a preemption: the same tokens,
greedy or drawn with a seed, and on every device those of the reference.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from quire.device.contract import KVPlan
from quire.engine.core import EngineCore
from quire.engine.messages import EngineRequest
from quire.sampling_params import SamplingParams
from quire_cpu.plugin import CAPABILITIES
from tests.models.checkpoints import FIRST_CASES, VOCAB
from tests.models.harness import LoadedModel, load_model
from tests.models.test_equality import DEVICES, jax_on_the_cpu

__all__ = ["jax_on_the_cpu"]  # a fixture that acts by being here

BLOCK_SIZE, MAX_MODEL_LEN, NUM_TOKENS = 16, 48, 9
WHOLE, CHUNK = 32, 13
ROOMY, FEW = 24, 6
"""Blocks for each KV group: for all requests and what they leave behind; for one request but not for all."""

REQUESTS: dict[str, tuple[int, SamplingParams]] = {
    "greedy": (26, SamplingParams(temperature=0.0, max_tokens=NUM_TOKENS)),
    "warm": (25, SamplingParams(temperature=1.0, top_k=100, seed=11, max_tokens=NUM_TOKENS)),
    "forked": (
        24,
        SamplingParams(n=2, temperature=0.8, top_k=40, top_p=0.95, min_p=0.001, seed=2**63, max_tokens=NUM_TOKENS),
    ),
}
"""Name -> (length of its prompt, how it is drawn). Each outgrows the blocks of its prompt while it generates."""

SEQUENCES = (("greedy", 0), ("warm", 0), ("forked", 0), ("forked", 1))

Tokens = dict[tuple[str, int], list[int]]


@pytest.fixture(scope="module")
def references() -> dict[str, Tokens]:
    """Case -> tokens of the reference device, each request alone; filled as cases come."""
    return {}


def load(folder: Path, device: str, quantization: str | None = None) -> LoadedModel:
    loaded = load_model(
        folder,
        device,
        quantization=quantization,
        block_size=BLOCK_SIZE,
        num_blocks=2 * ROOMY,
        max_model_len=MAX_MODEL_LEN,
        max_num_batched_tokens=WHOLE,
    )
    assert loaded.block_size == BLOCK_SIZE
    return loaded


def core_of(loaded: LoadedModel, num_blocks: int, *, chunk: int, prefix_caching: bool = False) -> EngineCore:
    """A core with a part of the executor's cache; what earlier cores wrote there is still in it."""
    pools = Counter(group.pool for group in loaded.model.kv_groups.values())
    plan = KVPlan(num_blocks={pool: num_blocks * num_groups for pool, num_groups in pools.items()})
    return EngineCore(
        loaded.executor,
        loaded.model,
        plan,
        block_size=BLOCK_SIZE,
        max_model_len=MAX_MODEL_LEN,
        max_num_batched_tokens=chunk,
        max_num_seqs=8,
        enable_prefix_caching=prefix_caching,
    )


def run(core: EngineCore, case: str, names: Sequence[str] = tuple(REQUESTS)) -> tuple[Tokens, bool]:
    """Tokens by (request, sequence), and whether a sequence was preempted in the middle of its answer."""
    for name in names:
        length, params = REQUESTS[name]
        rng = np.random.default_rng(sum(map(ord, case + name)))
        prompt = tuple(int(token) for token in rng.integers(3, VOCAB, length))
        core.add_request(EngineRequest(request_id=name, params=params, prompt_token_ids=prompt))
    tokens: Tokens = {}
    interrupted = False
    while core.has_unfinished():
        for output in core.step():
            assert output.error is None
            tokens.setdefault((output.request_id, output.index), []).extend(output.new_token_ids)
        interrupted |= any(seq.output_token_ids for seq in core.scheduler.waiting)
    return tokens, interrupted


def run_each_alone(loaded: LoadedModel, case: str) -> Tokens:
    """Each request by itself: its prompt in one step, its sequences with nobody else in theirs."""
    tokens: Tokens = {}
    for name in REQUESTS:
        tokens |= run(core_of(loaded, ROOMY, chunk=WHOLE), case, [name])[0]
    return tokens


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", FIRST_CASES)
def test_nothing_else_shows_in_the_tokens(
    case: str, device: str, checkpoint: Callable[[str], Path], references: dict[str, Tokens]
) -> None:
    if case not in references:
        reference = load(checkpoint(case), "reference")
        references[case] = run_each_alone(reference, case)
        reference.executor.close()
    expected = references[case]
    assert {key: len(tokens) for key, tokens in expected.items()} == dict.fromkeys(SEQUENCES, NUM_TOKENS)
    assert expected["forked", 0] != expected["forked", 1]
    loaded = load(checkpoint(case), device)
    try:
        assert run_each_alone(loaded, case) == expected, "not the reference's tokens"
        hold_tokens_equal(loaded, case, expected)
    finally:
        loaded.executor.close()


@pytest.mark.parametrize("scheme", sorted(CAPABILITIES.weight_schemes - {"plain"}))
@pytest.mark.parametrize("case", ["qwen3", "gemma2", "qwen3_moe"])
def test_nothing_else_shows_in_the_tokens_of_quantized_weights(
    case: str, scheme: str, checkpoint: Callable[[str], Path]
) -> None:
    loaded = load(checkpoint(case), "cpu", scheme)
    try:
        hold_tokens_equal(loaded, case, run_each_alone(loaded, case))
    finally:
        loaded.executor.close()


def hold_tokens_equal(loaded: LoadedModel, case: str, expected: Tokens) -> None:
    """In chunks among others, after a prefix hit, after a preemption."""
    core = core_of(loaded, ROOMY, chunk=CHUNK, prefix_caching=True)
    tokens, _ = run(core, case)
    assert tokens == expected, "chunks or other sequences show"
    assert (core.stats().preemptions, core.stats().prefix_hit_tokens) == (0, 0)
    tokens, _ = run(core, case)
    assert tokens == expected, "a prefix hit shows"
    assert core.stats().prefix_hit_tokens == BLOCK_SIZE * len(REQUESTS)

    tokens, interrupted = run(core_of(loaded, FEW, chunk=CHUNK), case)
    assert tokens == expected, "a preemption shows"
    assert interrupted
