"""Dimensions at which kernels block, split and spread over threads: still the same bits however work is cut."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quire.device.contract import ExecutorPlan, KVPlan
from quire.device.registry import resolve_device
from quire.engine.quantization import choose_schemes
from quire.graph.passes import optimize
from quire.models import build_model
from quire.weights import open_weights
from quire_cpu import _native
from quire_cpu.options import BFLOAT16_KERNELS
from quire_cpu.plugin import CAPABILITIES
from tests.models.harness import LoadedModel, one_chunk, random_chunks, run_greedy, run_greedy_batch

DENSE: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 320,
    "intermediate_size": 904,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 1111,
    "tie_word_embeddings": True,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "max_position_embeddings": 512,
    "hidden_act": "silu",
}
EXPERTS: dict[str, Any] = {
    **DENSE,
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "num_experts": 16,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 200,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "tie_word_embeddings": False,
}


def load(folder: Path, config: dict[str, Any], dtype: str, threads: int, kernels: str) -> LoadedModel:
    """`dtype`: of weights and cache, or a quantization scheme beside a bfloat16 cache."""
    (folder / "config.json").write_text(json.dumps(config))
    spec, backend = build_model(folder), resolve_device("cpu")
    asked, dtype = (dtype, "bfloat16") if dtype.startswith("int") else (None, dtype)
    quantized = choose_schemes(spec, None, asked, backend.capabilities)
    model = optimize(quantized.model, backend.capabilities.fused_ops)
    executor = backend.create_executor(
        ExecutorPlan(
            model=model,
            weight_dtype=dtype,
            act_dtype="bfloat16" if kernels == BFLOAT16_KERNELS else "float32",
            kv_dtype=dtype,
            block_size=64,
            max_model_len=320,
            max_num_batched_tokens=256,
            max_num_seqs=8,
            max_logits_rows=48,
            return_logits=True,
            options={"threads": str(threads), "poison": "true", "kernels": kernels},
        )
    )
    executor.load(open_weights("", model, load_format="dummy", dtype=dtype), lambda done, total: None)
    executor.allocate_kv(KVPlan(num_blocks=dict.fromkeys({g.pool for g in model.kv_groups.values()}, 32)))
    return LoadedModel(executor, model, 64, 32)


KERNELS = _native.available_kernels()
SCHEMES = sorted(CAPABILITIES.weight_schemes - {"plain"})


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", *SCHEMES])
@pytest.mark.parametrize("config", [DENSE, EXPERTS], ids=["dense", "experts"])
def test_batch_chunks_and_threads_change_no_bit(config: dict[str, Any], dtype: str, tmp_path: Path) -> None:
    hold_bits_equal(tmp_path, config, dtype)


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("dtype", ["bfloat16", "int8", "int8_g64", "int4_g32", "int4_g128_zp"])
def test_no_bit_changes_with_any_kernels(dtype: str, kernels: str, tmp_path: Path) -> None:
    hold_bits_equal(tmp_path, DENSE, dtype, kernels)


def hold_bits_equal(tmp_path: Path, config: dict[str, Any], dtype: str, kernels: str = KERNELS[0]) -> None:
    """Alone, in chunks, in a batch and with another number of threads: the same bits."""
    rng = np.random.default_rng(3)
    prompts = [[int(token) for token in rng.integers(0, 1111, length)] for length in (201, 3, 70)]
    loaded = load(tmp_path, config, dtype, threads=3, kernels=kernels)
    alone = [run_greedy(loaded, prompt, 4, one_chunk) for prompt in prompts]
    chunked = run_greedy(loaded, prompts[0], 4, random_chunks(rng, 40), seed=2)
    together = run_greedy_batch(loaded, prompts, 4, random_chunks(rng, 60), seed=3)
    loaded.executor.close()
    single = load(tmp_path, config, dtype, threads=1, kernels=kernels)
    alone.append(run_greedy(single, prompts[0], 4, one_chunk))
    single.executor.close()
    for logits, tokens in (chunked, together[0], alone[3]):
        assert tokens == alone[0][1]
        np.testing.assert_array_equal(logits, alone[0][0])
    for index in (1, 2):
        np.testing.assert_array_equal(together[index][0], alone[index][0])
    assert np.isfinite(alone[0][0]).all()
    assert np.ptp(alone[0][0]) > 0
