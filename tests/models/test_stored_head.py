"""A config that says that head and embedding are one, and files that hold a head besides."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

from quire import LLM, SamplingParams
from tests.models.checkpoints import save_checkpoint

PROMPT = [5, 6, 7, 8]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_checkpoint("llama_biases_tied", tmp_path)
    return tmp_path


def store_head(folder: Path, head: Any) -> None:
    """Adds the head that `head` makes of the embedding."""
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = head(weights["model.embed_tokens.weight"])
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def greedy(folder: Path) -> list[int]:
    params = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
    with LLM(str(folder), device="cpu", dtype="float32", skip_tokenizer_init=True) as llm:
        return list(llm.generate({"prompt_token_ids": PROMPT}, params)[0].outputs[0].token_ids)


def transformers_greedy(folder: Path) -> list[int]:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None
    return model.generate(torch.tensor([PROMPT]), max_new_tokens=8, do_sample=False)[0].tolist()[len(PROMPT) :]


def test_a_head_that_differs_is_used_as_transformers_does_and_it_is_said(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tied = greedy(folder)
    store_head(folder, lambda embedding: np.random.default_rng(0).normal(size=embedding.shape).astype(np.float32))
    with caplog.at_level(logging.WARNING, "quire"):
        tokens = greedy(folder)
    assert tokens == transformers_greedy(folder) != tied
    assert "a lm_head.weight that differs" in caplog.text


def test_an_equal_head_is_held_once_and_nothing_is_said(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    tied = greedy(folder)
    store_head(folder, np.copy)
    with caplog.at_level(logging.WARNING, "quire"), LLM(str(folder), device="cpu", skip_tokenizer_init=True) as llm:
        assert (
            llm.engine.loaded.spec.graph.heads["logits"].graph.weights["lm_head.weight"].source
            == next(iter(llm.engine.loaded.spec.graph.embed.graph.weights.values())).source
        )
    assert greedy(folder) == tied
    assert "lm_head" not in caplog.text
