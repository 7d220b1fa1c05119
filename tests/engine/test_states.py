"""Models with a state for each sequence, beside keys and values or alone, through the engine on the fake device.

The fake device faults where a state is not the one after exactly the tokens before, where a slot that somebody needs
is written over, and where the groups of a sequence hold different contexts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from quire.graph.ir import KVGroupSpec

STATE = {"state": KVGroupSpec("state", 0, (), 1, "state", checkpoint_every=2)}
HYBRID = {"full": KVGroupSpec("full", 0, (), 1, "full"), **STATE}
TWO_STATES = {
    **STATE,
    "sliding": KVGroupSpec("sliding", 6, (), 1, "sliding"),
    "state_2": KVGroupSpec("state", 0, (), 1, "state_2", checkpoint_every=3),
}
LATENT = {"latent": KVGroupSpec("latent", 0, (), 1, "latent"), **STATE}
MODELS = {"state": STATE, "hybrid": HYBRID, "two_states": TWO_STATES, "latent": LATENT}
PROMPT = list(range(3, 24))  # of 5 blocks and a token


def counted(prompt: list[int], num_tokens: int) -> list[int]:
    """What the fake device says after a prompt: each token is the one before plus one."""
    return [(prompt[-1] + 1 + index) % 50 for index in range(num_tokens)]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("budget", [3, 8, 16])
def test_requests_run_in_chunks_and_side_by_side(
    drive: Callable[..., Any], model: str, depth: int, budget: int
) -> None:
    driver = drive(groups=MODELS[model], depth=depth, budget=budget, max_num_seqs=3)
    prompts = {f"r{index}": PROMPT[: 5 + 4 * index] for index in range(4)}
    for name, prompt in prompts.items():
        driver.add(name, prompt, max_tokens=9)
    assert driver.run() == {(name, 0): counted(prompt, 9) for name, prompt in prompts.items()}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("depth", [1, 2])
def test_a_prefix_hit_ends_at_a_checkpoint(drive: Callable[..., Any], model: str, depth: int) -> None:
    driver = drive(groups=MODELS[model], depth=depth)
    driver.add("first", PROMPT)
    driver.run()
    driver.add("again", PROMPT)
    driver.run()
    assert driver.tokens["again", 0] == driver.tokens["first", 0] == counted(PROMPT, 8)
    hit = driver.outputs["again", 0][-1].num_cached_tokens
    assert hit == {"state": 16, "hybrid": 16, "latent": 16, "two_states": 0}[model]  # 2 and 3 blocks meet at 24 tokens
    longer = [*PROMPT, *counted(PROMPT, 7)]  # checkpoints were taken while tokens were drawn, too
    driver.add("longer", longer)
    driver.run()
    assert driver.outputs["longer", 0][-1].num_cached_tokens == 24
    assert driver.tokens["longer", 0] == counted(longer, 8)


def test_without_checkpoints_there_are_no_hits(drive: Callable[..., Any]) -> None:
    driver = drive(groups={**HYBRID, "state": KVGroupSpec("state", 0, (), 1, "state")})
    for name in ("first", "again"):
        driver.add(name, PROMPT)
        driver.run()
    assert driver.outputs["again", 0][-1].num_cached_tokens == 0


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("depth", [1, 2])
def test_forks_go_on_from_one_state(drive: Callable[..., Any], model: str, depth: int) -> None:
    """All draw; the contexts differ from the first token on, and every one of them must stay whole."""
    driver = drive(groups=MODELS[model], depth=depth)
    driver.add("forked", PROMPT[:14], n=4, temperature=2.0, seed=5, max_tokens=20)
    alone = drive(groups=MODELS[model], depth=depth)
    alone.add("other", PROMPT[:9], max_tokens=12)
    driver.add("other", PROMPT[:9], max_tokens=12)
    tokens = driver.run()
    assert len({tuple(tokens["forked", index]) for index in range(4)}) > 1
    assert tokens["other", 0] == alone.run()["other", 0]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("depth", [1, 2])
def test_who_is_preempted_starts_again_from_a_checkpoint_or_from_zeros(
    drive: Callable[..., Any], model: str, depth: int
) -> None:
    driver = drive(14, groups=MODELS[model], depth=depth, max_num_seqs=8, budget=24)
    prompts = {f"r{index}": PROMPT[index : index + 8] for index in range(8)}
    for name, prompt in prompts.items():
        driver.add(name, prompt, max_tokens=24)
    assert driver.run() == {(name, 0): counted(prompt, 24) for name, prompt in prompts.items()}
    if model != "state":
        assert driver.core.stats().preemptions > 0


def test_a_sequence_alone_holds_no_more_slots_than_is_said(drive: Callable[..., Any]) -> None:
    driver = drive(3, groups=STATE, max_num_seqs=1)
    driver.add("one", PROMPT, max_tokens=20)
    assert driver.run()["one", 0] == counted(PROMPT, 20)
