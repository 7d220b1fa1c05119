"""The tensors of a file under transformers' names, in floats and in integers."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from quire.errors import ModelError
from quire.weights import open_checkpoint
from quire.weights.formats.gguf.checkpoint import GgufCheckpoint
from quire.weights.schemes import dequantize
from tests.gguf_export import everything, export, write

HIDDEN, HEADS, KV_HEADS, MLP, VOCAB = 64, 4, 2, 96, 40
CONFIG = {
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "num_hidden_layers": 1,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "intermediate_size": MLP,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "vocab_size": VOCAB,
}
LLAMA_SHAPES = {
    "model.embed_tokens.weight": (VOCAB, HIDDEN),
    "model.norm.weight": (HIDDEN,),
    "lm_head.weight": (VOCAB, HIDDEN),
    "model.layers.0.input_layernorm.weight": (HIDDEN,),
    "model.layers.0.post_attention_layernorm.weight": (HIDDEN,),
    "model.layers.0.self_attn.q_proj.weight": (HIDDEN, HIDDEN),
    "model.layers.0.self_attn.k_proj.weight": (HIDDEN // 2, HIDDEN),
    "model.layers.0.self_attn.v_proj.weight": (HIDDEN // 2, HIDDEN),
    "model.layers.0.self_attn.o_proj.weight": (HIDDEN, HIDDEN),
    "model.layers.0.mlp.gate_proj.weight": (MLP, HIDDEN),
    "model.layers.0.mlp.up_proj.weight": (MLP, HIDDEN),
    "model.layers.0.mlp.down_proj.weight": (HIDDEN, MLP),
}
Q, K = "model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.k_proj.weight"


def published(folder: Path, shapes: dict[str, tuple[int, ...]] = LLAMA_SHAPES, **changes: object) -> Path:
    rng = np.random.default_rng(3)
    folder.mkdir(exist_ok=True)
    save_file(
        {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()},
        folder / "model.safetensors",
    )
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    return folder


def test_names_shapes_and_numbers_are_the_published_ones(tmp_path: Path) -> None:
    folder = published(tmp_path / "folder")
    files = open_checkpoint(export(folder, tmp_path / "x.gguf"))
    original = load_file(folder / "model.safetensors")
    assert set(files.names) == original.keys()
    for name, array in original.items():
        assert name in files
        assert (files.shape(name), files.dtype(name), files.scheme(name)) == (array.shape, np.float32, "plain")
        np.testing.assert_array_equal(files.tensor(name), array)
    assert not files.tensor("lm_head.weight").flags.writeable
    with pytest.raises(ModelError, match="no tensor nothing"):
        files.shape("nothing")


@pytest.mark.parametrize("kind", ["F16", "BF16"])
def test_half_precision_is_not_converted(kind: str, tmp_path: Path) -> None:
    folder = published(tmp_path / "folder")
    files = GgufCheckpoint(export(folder, tmp_path / "x.gguf", everything(kind)))
    for name, array in load_file(folder / "model.safetensors").items():
        expected = array.astype(files.dtype(name))
        assert files.dtype(name).itemsize == (2 if array.ndim > 1 else 4)
        np.testing.assert_array_equal(files.tensor(name).astype(np.float32), expected.astype(np.float32))


@pytest.mark.parametrize(
    ("kind", "scheme"),
    [("Q8_0", "int8_g32"), ("Q4_0", "int4_g32"), ("Q4_1", "int4_g32_zp"), ("Q5_0", "int8_g32"), ("Q5_1", "int8_g32")],
)
def test_matrices_in_integers(kind: str, scheme: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = published(tmp_path / "folder")
    with caplog.at_level(logging.WARNING, "quire"):
        files = GgufCheckpoint(export(folder, tmp_path / "x.gguf", everything(kind)))
    again = [record.getMessage() for record in caplog.records]
    assert [text for text in again if "9 matrices of type Q5_1 are rounded again" in text] == again
    assert bool(again) is (kind == "Q5_1")
    for name, array in load_file(folder / "model.safetensors").items():
        if array.ndim < 2:
            assert files.scheme(name) == "plain"
            continue
        matrix, floats = files.quantized(name), files.tensor(name)
        assert (files.scheme(name), matrix.scheme.name, matrix.shape) == (scheme, scheme, array.shape)
        assert (files.dtype(name), floats.dtype) == (np.float32, np.float32)
        expected = gguf.quants.dequantize(
            gguf.quants.quantize(array, gguf.GGMLQuantizationType[kind]), gguf.GGMLQuantizationType[kind]
        )
        np.testing.assert_array_equal(floats, expected)
        tolerance = {"Q4_1": 1e-6, "Q5_1": 0.01}.get(kind, 0.0)
        assert np.abs(dequantize(matrix) - floats).max() <= tolerance * np.abs(floats).max()


def test_each_expert_is_a_tensor(tmp_path: Path) -> None:
    experts = {
        f"model.layers.0.block_sparse_moe.experts.{index}.{name}.weight": shape
        for index in range(3)
        for name, shape in (("w1", (MLP, HIDDEN)), ("w3", (MLP, HIDDEN)), ("w2", (HIDDEN, MLP)))
    }
    shapes = {name: shape for name, shape in LLAMA_SHAPES.items() if ".mlp." not in name} | experts
    shapes["model.layers.0.block_sparse_moe.gate.weight"] = (3, HIDDEN)
    folder = published(tmp_path / "folder", shapes, model_type="mixtral", num_local_experts=3, num_experts_per_tok=2)
    files = GgufCheckpoint(export(folder, tmp_path / "x.gguf", everything("Q8_0")))
    assert set(files.names) == shapes.keys()
    original = load_file(folder / "model.safetensors")
    for name in experts:
        assert (files.shape(name), files.scheme(name)) == (shapes[name], "int8_g32")
        np.testing.assert_array_equal(dequantize(files.quantized(name)), files.tensor(name))
        np.testing.assert_allclose(files.tensor(name), original[name], atol=0.03)


def test_experts_stored_one_by_one_have_the_same_names(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    for add, value in (
        (writer.add_context_length, 8),
        (writer.add_embedding_length, 64),
        (writer.add_block_count, 1),
        (writer.add_feed_forward_length, 96),
        (writer.add_head_count, 4),
        (writer.add_expert_count, 2),
        (writer.add_expert_used_count, 1),
        (writer.add_layer_norm_rms_eps, 1e-5),
    ):
        add(value)
    writer.add_tensor("token_embd.weight", np.ones((8, 64), np.float32))
    for index in range(2):
        writer.add_tensor(f"blk.0.ffn_gate.{index}.weight", np.full((96, 64), index, np.float32))
    write(writer)
    files = GgufCheckpoint(tmp_path / "x.gguf")
    assert list(files.names)[1:] == [f"model.layers.0.block_sparse_moe.experts.{index}.w1.weight" for index in (0, 1)]


def test_types_that_are_not_read_are_named(tmp_path: Path) -> None:
    folder = published(tmp_path / "folder")
    writer_path = tmp_path / "x.gguf"

    def add_strange(writer: gguf.GGUFWriter) -> None:
        writer.add_tensor(
            "blk.0.ffn_strange.weight", np.zeros((2, 66), np.uint8), raw_dtype=gguf.GGMLQuantizationType.IQ2_XXS
        )

    with pytest.raises(ModelError, match=r"type IQ2_XXS \(1\)") as caught:
        GgufCheckpoint(export(folder, writer_path, add_metadata=add_strange))
    assert "Q4_K" in caught.value.because
    assert "blk.0.ffn_strange.weight" in caught.value.because
