"""Random weights: reproducible, cut like a checkpoint's, of a scale that keeps activations finite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quire.errors import ConfigError
from quire.graph.ir import ModelGraph
from quire.graph.shard import shard
from quire.models import build_model_from_config
from quire.weights import DummyWeights, open_weights


def model_of(architecture: str, model_type: str, **values: Any) -> ModelGraph:
    return build_model_from_config(
        {
            "architectures": [architecture],
            "model_type": model_type,
            "vocab_size": 131,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 64,
            **values,
        }
    ).graph


def arrays_of(model: ModelGraph, weights: Any) -> dict[str, np.ndarray]:
    return {
        part.prefix + name: weights.read(weight)
        for part in model.parts()
        for name, weight in part.graph.weights.items()
    }


MIXTRAL = model_of("MixtralForCausalLM", "mixtral", num_local_experts=4)


def test_they_depend_on_seed_and_name_only() -> None:
    first = arrays_of(MIXTRAL, DummyWeights(MIXTRAL, seed=3, dtype="float32"))
    again = arrays_of(MIXTRAL, open_weights("absent", MIXTRAL, load_format="dummy", seed=3, dtype="float32"))
    other = arrays_of(MIXTRAL, DummyWeights(MIXTRAL, seed=4, dtype="float32"))
    for name, array in first.items():
        np.testing.assert_array_equal(array, again[name])
        assert not np.array_equal(array, other[name])
    assert not np.array_equal(
        first["model.layers.0.self_attn.k_proj.weight"], first["model.layers.1.self_attn.k_proj.weight"]
    )


def test_norms_are_around_one_and_the_rest_around_zero() -> None:
    weights = DummyWeights(MIXTRAL, dtype="float32")
    arrays = arrays_of(MIXTRAL, weights)
    assert sum(array.nbytes for array in arrays.values()) == weights.total_bytes
    for name, array in arrays.items():
        assert abs(array.mean() - (1 if "norm" in name else 0)) < 0.02
        assert 0.01 < array.std() < 0.03


def test_norms_of_gemma_are_stored_less_one() -> None:
    model = model_of("Gemma2ForCausalLM", "gemma2", head_dim=8)
    norm = model.layers[0].graph.weights["input_layernorm.weight"]
    assert abs(DummyWeights(model, dtype="float16").read(norm).astype(np.float32).mean()) < 0.02


def test_ranks_hold_cuts_of_one_model() -> None:
    whole = arrays_of(MIXTRAL, DummyWeights(MIXTRAL, seed=3, dtype="float32"))
    cut = shard(MIXTRAL, 2)
    local = arrays_of(cut, DummyWeights(cut, seed=3, dtype="float32", rank=1, world_size=2))
    layer = "model.layers.1."
    np.testing.assert_array_equal(local[f"{layer}mlp.experts.down_proj"], whole[f"{layer}mlp.experts.down_proj"][2:])
    np.testing.assert_array_equal(
        local[f"{layer}self_attn.k_proj.weight"], whole[f"{layer}self_attn.k_proj.weight"][8:]
    )
    np.testing.assert_array_equal(local[f"{layer}input_layernorm.weight"], whole[f"{layer}input_layernorm.weight"])


def test_pieces_and_ranks_are_cuts_of_the_same_numbers() -> None:
    model = shard(MIXTRAL, 2)
    first, second = (DummyWeights(model, dtype="float32", rank=rank, world_size=2) for rank in range(2))
    experts = model.layers[0].graph.weights["mlp.experts.gate_up_proj"]
    np.testing.assert_array_equal(first.for_rank(1).read(experts), second.read(experts))
    rows = np.concatenate(list(second.pieces(experts)))
    np.testing.assert_array_equal(rows, second.read(experts).reshape(rows.shape))


def test_rows_of_large_matrices_differ() -> None:
    model = model_of("LlamaForCausalLM", "llama", vocab_size=5000)
    table = DummyWeights(model).read(model.embed.graph.weights["embed_tokens.weight"])
    assert len({row.tobytes() for row in table}) == 5000


def test_unknown_formats_and_dtypes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="load_format='gguf'"):
        open_weights(tmp_path, MIXTRAL, load_format="gguf")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="int8"):
        DummyWeights(MIXTRAL, dtype="int8")
