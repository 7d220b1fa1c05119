"""Quantized GGUF files against transformers, which dequantizes them as it loads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers

from quire.weights import open_checkpoint
from tests.gguf_export import everything, export
from tests.models.checkpoints import FAMILIES, FOUR_LAYERS, SHAPE, VOCAB, save_checkpoint
from tests.models.harness import load_model, run_greedy

WIDE = {**SHAPE, "num_hidden_layers": 2, "hidden_size": 256, "intermediate_size": 512}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": FAMILIES["llama"],
    "qwen2": FAMILIES["qwen2"],
    "qwen3": ("Qwen3", {**SHAPE, "head_dim": 128}),
    "gemma2": ("Gemma2", {**FOUR_LAYERS, "head_dim": 32, "query_pre_attn_scalar": 256}),
    "gemma3": (
        "Gemma3",
        {**SHAPE, "num_hidden_layers": 7, "head_dim": 32, "sliding_window": 9, "query_pre_attn_scalar": 256},
    ),
    "wide_llama": ("Llama", WIDE),
    "wide_qwen3": ("Qwen3", {**WIDE, "head_dim": 128, "tie_word_embeddings": True}),
}
"""Within what transformers reads of the metadata: it takes some values from its own defaults."""


def k_mixture(name: str, array: np.ndarray) -> gguf.GGMLQuantizationType:
    """As files called Q4_K_M: better types where it matters."""
    if array.ndim < 2:
        return gguf.GGMLQuantizationType.F32
    for part, kind in (("token_embd", "Q6_K"), ("attn_v", "Q6_K"), ("ffn_down", "Q5_K")):
        if part in name:
            return gguf.GGMLQuantizationType[kind]
    return gguf.GGMLQuantizationType.Q4_K


def add_vocabulary(writer: gguf.GGUFWriter) -> None:
    writer.add_vocab_size(VOCAB)
    writer.add_token_list([f"t{index}" for index in range(VOCAB)])


@pytest.mark.parametrize(
    ("case", "kind"),
    [
        *((case, kind) for case in CASES if "wide" not in case for kind in ("Q8_0", "Q4_0")),
        ("wide_llama", "mixture"),
        ("wide_qwen3", "mixture"),
        ("wide_llama", "Q5_1"),
    ],
)
def test_logits_are_those_of_transformers(
    case: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("accelerate", reason="transformers reads GGUF files only where accelerate is installed")
    monkeypatch.setitem(FAMILIES, case, CASES[case])
    save_checkpoint(case, tmp_path)
    choose: Callable[..., Any] = k_mixture if kind == "mixture" else everything(kind)
    path = export(tmp_path, tmp_path / "model.gguf", choose, add_vocabulary)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="model.gguf", dtype=torch.float32, attn_implementation="eager"
    ).eval()
    loaded = load_model(path, "reference", as_stored=False)
    logits, tokens = run_greedy(loaded, list(range(3, 30)), 6)
    with torch.no_grad():
        expected = theirs(torch.tensor([[*range(3, 30), *tokens[:-1]]]), use_cache=False).logits[0].numpy()
    assert np.abs(logits - expected).max() / np.abs(expected).max() < 1e-4


@pytest.mark.parametrize(
    ("case", "kind", "error"),
    [
        ("llama", "Q4_0", 1e-4),
        ("wide_llama", "Q4_1", 1e-4),
        ("wide_qwen3", "mixture", 0.02),
        ("mixtral", "Q8_0", 1e-4),
        ("qwen3_moe", "Q4_1", 1e-4),
        ("phi3", "Q8_0", 1e-4),
        ("gpt_neox", "Q5_0", 1e-4),
        ("gpt2", "Q8_0", 1e-4),
    ],
)
def test_integers_stand_for_the_same_numbers(
    case: str, kind: str, error: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five bits are rounded again to eight; on the cpu activations are rounded too."""
    monkeypatch.setitem(FAMILIES, case, CASES.get(case) or FAMILIES[case])
    save_checkpoint(case, tmp_path)
    path = export(tmp_path, tmp_path / "model.gguf", k_mixture if kind == "mixture" else everything(kind))
    assert bool(open_checkpoint(path).dequantized) is (case == "gpt2")
    prompt = list(range(3, 30))
    expected, _ = run_greedy(load_model(path, "reference", as_stored=False), prompt, 1)
    spread = np.sqrt(np.mean(expected**2))
    for device, most in (("reference", error), ("cpu", 0.15)):
        loaded = load_model(path, device)
        schemes = {weight.scheme for part in loaded.model.parts() for weight in part.graph.weights.values()}
        assert schemes - {"plain"}
        logits, _ = run_greedy(loaded, prompt, 1)
        loaded.executor.close()
        assert np.sqrt(np.mean((logits - expected) ** 2)) / spread < most, device
