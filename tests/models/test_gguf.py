"""Every family that GGUF files hold, exported and read back, against transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from quire.models import build_model
from tests.gguf_export import export
from tests.models.checkpoints import VOCAB, full_forward
from tests.models.harness import load_model, run_greedy

CASES = (
    "llama",
    "llama_llama3",
    "llama_linear",
    "llama_yarn",
    "mistral",
    "mistral_full",
    "mixtral",
    "mixtral_sliding",
    "qwen2",
    "qwen3",
    "qwen3_moe",
    "gemma2",
    "gemma3",
    "phi3",
    "gpt2",
    "gpt_neox",
    "gpt_neox_serial",
    "olmo2",
)


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_the_checkpoint_that_was_exported(
    case: str, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = checkpoint(case)
    path = export(folder, tmp_path / "model.gguf")
    spec, published = build_model(path), build_model(folder)
    assert (spec.max_model_len, spec.vocab_size, spec.eos_token_ids) == (
        published.max_model_len,
        published.vocab_size,
        (),
    )
    prompt = [int(token) for token in np.random.default_rng(len(case)).integers(3, VOCAB, 27)]
    loaded = load_model(path, "cpu")
    logits, tokens = run_greedy(loaded, prompt, 16)
    loaded.executor.close()
    expected = full_forward(folder, [*prompt, *tokens[:-1]])
    assert np.abs(logits - expected).max() / np.abs(expected).max() < 1e-4
