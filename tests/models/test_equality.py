"""Every family on every device against transformers: logits first, tokens second."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quire.graph.ops import FUSED_OPS
from tests.models.checkpoints import (
    FAMILIES,
    LINEAR_ROPE,
    LLAMA3_ROPE,
    VOCAB,
    YARN_MSCALE_ROPE,
    YARN_ROPE,
    full_forward,
)
from tests.models.harness import load_model, one_chunk, random_chunks, run_greedy, run_greedy_batch

DEVICES = ("reference", "cpu", "torch", "tpu")
NUM_TOKENS = 32
TOLERANCE = 1e-4


@pytest.fixture(autouse=True)
def jax_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device tpu is JAX on this machine's CPU."""
    monkeypatch.setenv("QUIRE_JAX_PLATFORM", "cpu")


def prompt_of(case: str) -> list[int]:
    rng = np.random.default_rng(sum(map(ord, case)))
    return [int(token) for token in rng.integers(3, VOCAB, 27)]


def relative_error(logits: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(logits - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", FAMILIES)
def test_logits_and_tokens_are_those_of_transformers(case: str, device: str, checkpoint: Callable[[str], Path]) -> None:
    folder, prompt = checkpoint(case), prompt_of(case)
    loaded = load_model(folder, device)
    try:
        whole = run_greedy(loaded, prompt, NUM_TOKENS, one_chunk)
        chunked = run_greedy(loaded, prompt, NUM_TOKENS, random_chunks(np.random.default_rng(1)), seed=1)
    finally:
        loaded.executor.close()
    expected = full_forward(folder, [*prompt, *whole[1][:-1]])
    greedy_tokens = [int(token) for token in expected[len(prompt) - 1 :].argmax(axis=-1)]
    for logits, tokens in (whole, chunked):
        assert tokens == greedy_tokens
        assert relative_error(logits, expected) <= TOLERANCE


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", ["gemma2", "mixtral"])
def test_a_prompt_does_not_notice_the_others_in_its_batch(
    case: str, device: str, checkpoint: Callable[[str], Path]
) -> None:
    prompts = [prompt_of(case + suffix)[:length] for suffix, length in (("a", 27), ("b", 5), ("c", 14))]
    loaded = load_model(checkpoint(case), device)
    together = run_greedy_batch(loaded, prompts, 6, random_chunks(np.random.default_rng(2)))
    for prompt, (logits, tokens) in zip(prompts, together, strict=True):
        alone_logits, alone_tokens = run_greedy(loaded, prompt, 6, one_chunk)
        assert tokens == alone_tokens
        assert relative_error(logits, alone_logits) <= TOLERANCE


@pytest.mark.parametrize("case", ["gemma2", "gpt_neox", "olmo2", "phi3", "qwen3_moe"])
def test_passes_do_not_change_a_model(case: str, checkpoint: Callable[[str], Path]) -> None:
    folder, prompt = checkpoint(case), prompt_of(case)
    plain = run_greedy(load_model(folder, "reference", fused_ops=frozenset()), prompt, 3)
    fused = run_greedy(load_model(folder, "reference", fused_ops=FUSED_OPS), prompt, 3)
    assert fused[1] == plain[1]
    assert relative_error(fused[0], plain[0]) <= TOLERANCE


@pytest.mark.parametrize(
    ("case", "changes"),
    [
        ("gemma2", {"attn_logit_softcapping": 6.0}),
        ("gemma2", {"final_logit_softcapping": 7.2}),
        ("gemma2", {"query_pre_attn_scalar": 49}),
        ("gemma2", {"sliding_window": 8}),
        (
            "gemma3",
            {
                "rope_parameters": {
                    "full_attention": {"rope_theta": 1e6, "rope_type": "linear", "factor": 7.0},
                    "sliding_attention": {"rope_theta": 10000.0},
                }
            },
        ),
        (
            "gemma3",
            {
                "rope_parameters": {
                    "full_attention": {"rope_theta": 1e6, "rope_type": "linear", "factor": 8.0},
                    "sliding_attention": {"rope_theta": 9000.0},
                }
            },
        ),
        ("gpt2", {"scale_attn_weights": False}),
        ("gpt2", {"activation_function": "gelu"}),
        ("gpt_neox", {"use_parallel_residual": False}),
        ("llama", {"rms_norm_eps": 1e-3}),
        ("llama", {"rope_parameters": {"rope_theta": 450000.0}}),
        ("llama_linear", {"rope_parameters": {**LINEAR_ROPE, "factor": 3.9}}),
        ("llama_llama3", {"rope_parameters": {**LLAMA3_ROPE, "high_freq_factor": 3.5}}),
        ("llama_yarn", {"rope_parameters": {**YARN_ROPE, "beta_fast": 8}}),
        ("llama_yarn_mscale", {"rope_parameters": {**YARN_MSCALE_ROPE, "mscale": 1.1}}),
        ("llama_yarn_mscale", {"rope_parameters": {**YARN_MSCALE_ROPE, "truncate": True}}),
        ("mistral", {"sliding_window": 8}),
        ("mixtral", {"num_experts_per_tok": 3}),
        ("phi3", {"rope_parameters": {"rope_theta": 10000.0, "partial_rotary_factor": 0.75}}),
        ("qwen2_sliding", {"layer_types": ["full_attention", "full_attention", "sliding_attention"]}),
        ("qwen3_moe", {"norm_topk_prob": False}),
    ],
)
def test_a_wrong_constant_is_seen(
    case: str, changes: dict[str, Any], checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """What keeps the comparison honest: every constant of a family moves the logits beyond the tolerance."""
    folder, prompt = checkpoint(case), prompt_of(case)
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))
    (tmp_path / "model.safetensors").hardlink_to(folder / "model.safetensors")
    right = run_greedy(load_model(folder, "reference"), prompt, 1)[0]
    wrong = run_greedy(load_model(tmp_path, "reference"), prompt, 1)[0]
    assert relative_error(wrong, right) > 1.5 * TOLERANCE
