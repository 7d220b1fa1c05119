"""A checkpoint as the GGUF file that peers get is the same model: read back, it gives the same tokens."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

gguf = pytest.importorskip("gguf")

from gguf_checkpoint import write_bf16_gguf  # noqa: E402

from quire.demo import demo_model_path  # noqa: E402
from quire.engine.config import EngineConfig  # noqa: E402
from quire.engine.llm_engine import LLMEngine  # noqa: E402
from quire.sampling_params import SamplingParams  # noqa: E402


def tokens_of(model: Path) -> list[int]:
    engine = LLMEngine(
        EngineConfig(model=str(model), device="reference", max_model_len=64, skip_tokenizer_init=True, dtype="bfloat16")
    )
    engine.add_request(
        {"prompt_token_ids": [5, 9, 300, 7]}, SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True)
    )
    outputs = []
    while engine.has_unfinished():
        outputs += engine.step()
    engine.close()
    return list(outputs[-1].outputs[0].token_ids)


def test_the_demo_model_answers_alike_from_both_files(tmp_path: Path) -> None:
    write_bf16_gguf(demo_model_path(), tmp_path / "demo.gguf")
    assert tokens_of(tmp_path / "demo.gguf") == tokens_of(demo_model_path())


LLAMA = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 320, "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5, "tie_word_embeddings": False, "architectures": ["LlamaForCausalLM"], "hidden_act": "silu",
    "rope_theta": 10000.0, "torch_dtype": "bfloat16",
}  # fmt: skip


LLAMA3_SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


@pytest.mark.parametrize("scaling", [None, LLAMA3_SCALING])
def test_llama_rows_and_frequencies(tmp_path: Path, scaling: dict | None) -> None:
    import ml_dtypes

    folder = tmp_path / "llama"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**LLAMA, "rope_scaling": scaling}))
    random = np.random.default_rng(0)
    shapes = {"model.embed_tokens.weight": (320, 64), "lm_head.weight": (320, 64), "model.norm.weight": (64,)}
    for i in range(2):
        block = f"model.layers.{i}"
        shapes |= {f"{block}.{name}.weight": (64,) for name in ("input_layernorm", "post_attention_layernorm")}
        shapes |= {
            f"{block}.self_attn.{name}_proj.weight": (rows, 64)
            for name, rows in (("q", 64), ("k", 32), ("v", 32), ("o", 64))
        }
        shapes |= {
            f"{block}.mlp.gate_proj.weight": (96, 64),
            f"{block}.mlp.up_proj.weight": (96, 64),
            f"{block}.mlp.down_proj.weight": (64, 96),
        }
    tensors = {
        name: (random.standard_normal(shape) * 0.3 + (len(shape) == 1)).astype(ml_dtypes.bfloat16)
        for name, shape in shapes.items()
    }
    save_file(tensors, folder / "model.safetensors")
    write_bf16_gguf(folder, tmp_path / "llama.gguf")
    assert tokens_of(tmp_path / "llama.gguf") == tokens_of(folder)


def test_other_families_and_names_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA, "model_type": "mamba"}))
    with pytest.raises(ValueError, match="mamba checkpoints are not converted"):
        write_bf16_gguf(tmp_path, tmp_path / "x.gguf")
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    save_file({"model.layers.0.odd.weight": np.zeros(4, np.uint16)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="bfloat16 checkpoints are converted"):
        write_bf16_gguf(tmp_path, tmp_path / "x.gguf")
