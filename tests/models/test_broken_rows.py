"""A request whose arithmetic gives NaN, on every device: it ends, those beside it and behind it do not notice.

The embedding of one token is NaN, so that whatever comes behind it is: hidden states, keys and values in the cache,
logits. Every way to a token is taken: greedy and drawn on the device, with the host's features, in slices of the head.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from quire.device.contract import KVPlan
from quire.engine.core import EngineCore
from quire.engine.messages import EngineRequest
from quire.sampling_params import SamplingParams
from tests.models.checkpoints import VOCAB
from tests.models.harness import LoadedModel, load_model
from tests.models.test_equality import DEVICES, jax_on_the_cpu

__all__ = ["jax_on_the_cpu"]  # a fixture that acts by being here

BROKEN = 7
"""The token whose embedding is NaN; no healthy request has it, and none may draw it."""

NUM_TOKENS = 6
HEALTHY: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "drawn": {"temperature": 0.9, "top_k": 20, "seed": 3},
    "host": {"temperature": 0.8, "seed": 4, "presence_penalty": 0.5, "logprobs": 2},
    "prompt": {"temperature": 0.0, "prompt_logprobs": 1},
}
EVIL: dict[str, dict[str, Any]] = {**HEALTHY, "forked": {"temperature": 1.0, "seed": 5, "n": 2}}


@pytest.fixture(scope="session")
def broken_checkpoint(
    checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """broken_checkpoint(case) -> its folder."""
    root = tmp_path_factory.mktemp("broken")

    def folder_of(case: str) -> Path:
        folder = root / case
        if not folder.exists():
            shutil.copytree(checkpoint(case), folder)
            file = folder / "model.safetensors"
            tensors = load_file(file)
            assert not json.loads((folder / "config.json").read_text()).get("tie_word_embeddings")
            tensors["model.embed_tokens.weight"][BROKEN] = np.nan
            save_file(tensors, file, metadata={"format": "pt"})
        return folder

    return folder_of


def core_of(loaded: LoadedModel, num_blocks: int) -> EngineCore:
    pools = Counter(group.pool for group in loaded.model.kv_groups.values())
    plan = KVPlan(num_blocks={pool: num_blocks * num_groups for pool, num_groups in pools.items()})
    return EngineCore(
        loaded.executor,
        loaded.model,
        plan,
        block_size=loaded.block_size,
        max_model_len=48,
        max_num_batched_tokens=24,
        max_num_seqs=8,
    )


def add(core: EngineCore, name: str, options: dict[str, Any], *, broken_at: int | None = None) -> None:
    """A prompt of 19 tokens, one of them the broken one where asked for; the broken one is never drawn."""
    rng = np.random.default_rng(sum(map(ord, name)))
    prompt = [int(token) for token in rng.integers(BROKEN + 1, VOCAB, 19)]
    if broken_at is not None:
        prompt[broken_at] = BROKEN
    params = SamplingParams(
        max_tokens=NUM_TOKENS, logit_bias={BROKEN: -100.0} if "seed" in options else None, **options
    )
    core.add_request(EngineRequest(request_id=name, prompt_token_ids=tuple(prompt), params=params))


def run(core: EngineCore) -> tuple[dict[str, list[int]], dict[str, str]]:
    """Tokens of each request's first sequence, and the errors."""
    tokens: dict[str, list[int]] = {}
    errors: dict[str, str] = {}
    while core.has_unfinished():
        for output in core.step():
            if output.error is not None:
                assert output.error.kind == "BackendError"
                errors[output.request_id] = output.error.what
            elif output.index == 0:
                tokens.setdefault(output.request_id, []).extend(output.new_token_ids)
    stats = core.stats()
    assert (stats.failed_steps, stats.num_used_blocks) == (0, 0)
    return tokens, errors


@pytest.mark.parametrize(
    ("case", "max_logits_rows", "device"),
    [
        *(("llama", 64, device) for device in DEVICES),
        *(("mixtral", 3, device) for device in DEVICES),
        *(("qwen2_sliding", 3, device) for device in DEVICES if device != "tpu"),  # compiles for long, as llama's steps
    ],
)
def test_only_the_broken_request_ends(
    case: str, max_logits_rows: int, device: str, broken_checkpoint: Callable[[str], Path]
) -> None:
    loaded = load_model(
        broken_checkpoint(case),
        device,
        max_model_len=48,
        max_num_batched_tokens=24,
        return_logits=False,
        max_logits_rows=max_logits_rows,
    )
    try:
        alone: dict[str, list[int]] = {}
        for name, options in HEALTHY.items():
            core = core_of(loaded, 16)
            add(core, name, options)
            tokens, errors = run(core)
            assert not errors
            alone |= tokens
        assert all(len(tokens) == NUM_TOKENS for tokens in alone.values())

        core = core_of(loaded, 16)  # so few blocks that healthy requests get those that held NaN
        for turn in range(2):
            for position, (name, options) in enumerate(EVIL.items()):
                add(core, f"evil {turn} {name}", options, broken_at=(0, 3, 9, 17, 18)[position])
                if name in HEALTHY:
                    add(core, name, HEALTHY[name])
            tokens, errors = run(core)
            assert {name: tokens[name] for name in HEALTHY} == alone
            assert set(errors) == {f"evil {turn} {name}" for name in EVIL}
            assert all("NaN" in what for what in errors.values())
    finally:
        loaded.executor.close()
