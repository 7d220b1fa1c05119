"""The tiny models of L1, L3, L4 and L6: one for each kind of layer, built from a config like a checkpoint's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from quire.device.contract import ExecutorPlan
from quire.graph.ir import ModelGraph
from quire.models import build_model_from_config
from quire.testing.conform.random_weights import RandomWeights
from quire.testing.conform.subject import REFERENCE_BLOCK_SIZE, Dtypes

VOCAB = 131

_SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "intermediate_size": 56,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "head_dim": 16,
}

CONFIGS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "qwen3": {
            **_SHAPE,
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "rope_theta": 10000.0,
            "tie_word_embeddings": True,
        },
        "gemma2": {
            **_SHAPE,
            "architectures": ["Gemma2ForCausalLM"],
            "model_type": "gemma2",
            "num_hidden_layers": 4,
            "sliding_window": 9,
            "query_pre_attn_scalar": 24,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
        },
        "mixtral": {
            **_SHAPE,
            "architectures": ["MixtralForCausalLM"],
            "model_type": "mixtral",
            "num_local_experts": 5,
            "num_experts_per_tok": 2,
            "sliding_window": None,
        },
        "gpt2": {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "vocab_size": VOCAB,
            "n_embd": 64,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 128,
        },
    }
)
"""Family -> config.json. qwen3: per-head norms, grouped queries, tied. gemma2: softcaps, windows, norm offsets.
mixtral: experts. gpt2: layer norms, biases, learned positions, one KV head per query head."""

WIDE = {
    **_SHAPE,
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 4096,
    "hidden_size": 192,
    "intermediate_size": 256,
    "tie_word_embeddings": True,
}
"""A model whose weights are large enough to be counted: what L1 measures memory with."""


@dataclass(frozen=True, slots=True)
class TinyModel:
    """A model as written, before any passes."""

    family: str
    graph: ModelGraph

    def weights(self, graph: ModelGraph | None = None, seed: int = 0) -> RandomWeights:
        """Equal numbers for every graph that passes make of this model."""
        return RandomWeights(graph or self.graph, seed)

    def ops(self) -> frozenset[str]:
        """The ops it is made of."""
        return frozenset(node.op for part in self.graph.parts() for node in part.graph.nodes)


@lru_cache
def tiny_model(family: str) -> TinyModel:
    """One of CONFIGS, or "wide"."""
    config = WIDE if family == "wide" else CONFIGS[family]
    return TinyModel(family, build_model_from_config(config).graph)


def reference_plan(family: str, dtypes: Dtypes) -> ExecutorPlan:
    """The plan that the reference runs a model with, as it is written, when it says what is right."""
    return ExecutorPlan(
        model=tiny_model(family).graph,
        weight_dtype=dtypes.weight,
        act_dtype=dtypes.act,
        kv_dtype=dtypes.kv,
        block_size=REFERENCE_BLOCK_SIZE,
        max_model_len=512,
        max_num_batched_tokens=512,
        max_num_seqs=8,
        max_logits_rows=128,
        return_logits=True,
    )
