"""Checkpoints against their model: everything that does not fit is named at once; ranks' parts make the whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from quire.errors import ModelError
from quire.graph.ir import ModelGraph
from quire.graph.passes import optimize
from quire.graph.shapes import Dim
from quire.graph.shard import axis_range, shard
from quire.models import build_model, build_model_from_config
from quire.weights import CheckpointWeights, open_weights

CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "tie_word_embeddings": True},
    "phi3": {"architectures": ["Phi3ForCausalLM"], "model_type": "phi3"},
    "gpt_neox": {"architectures": ["GPTNeoXForCausalLM"], "model_type": "gpt_neox", "rotary_pct": 0.5},
    "mixtral": {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "num_local_experts": 4},
    "qwen2": {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"},
}
SHAPE = {
    "vocab_size": 131,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "torch_dtype": "bfloat16",
}
GPT2 = {
    "architectures": ["GPT2LMHeadModel"],
    "model_type": "gpt2",
    "vocab_size": 131,
    "n_embd": 32,
    "n_head": 8,
    "n_layer": 2,
    "n_positions": 64,
}


def config_of(case: str) -> dict[str, Any]:
    return GPT2 if case == "gpt2" else {**SHAPE, **CONFIGS[case]}


def stored_shapes(case: str) -> dict[str, tuple[int, ...]]:
    """Tensor shapes of a published checkpoint of the case, written down by hand."""
    d, f, v, q, kv = 32, 48, 131, 32, 8
    layer = {"input_layernorm.weight": (d,), "post_attention_layernorm.weight": (d,)}
    names = {"model.embed_tokens.weight": (v, d), "model.norm.weight": (d,), "lm_head.weight": (v, d)}
    prefix = "model.layers."
    dense = {"mlp.gate_proj.weight": (f, d), "mlp.up_proj.weight": (f, d), "mlp.down_proj.weight": (d, f)}
    separate = {
        "self_attn.q_proj.weight": (q, d),
        "self_attn.k_proj.weight": (kv, d),
        "self_attn.v_proj.weight": (kv, d),
        "self_attn.o_proj.weight": (d, q),
    }
    if case == "llama":
        del names["lm_head.weight"]
        layer |= separate | dense
    elif case == "qwen2":
        layer |= (
            separate
            | dense
            | {"self_attn.q_proj.bias": (q,), "self_attn.k_proj.bias": (kv,), "self_attn.v_proj.bias": (kv,)}
        )
    elif case == "phi3":
        layer |= {
            "self_attn.qkv_proj.weight": (q + 2 * kv, d),
            "self_attn.o_proj.weight": (d, q),
            "mlp.gate_up_proj.weight": (2 * f, d),
            "mlp.down_proj.weight": (d, f),
        }
    elif case == "mixtral":
        layer |= separate | {"block_sparse_moe.gate.weight": (4, d)}
        for expert in range(4):
            layer |= {
                f"block_sparse_moe.experts.{expert}.{name}.weight": (d, f) if name == "w2" else (f, d)
                for name in ("w1", "w2", "w3")
            }
    elif case == "gpt_neox":
        prefix = "gpt_neox.layers."
        names = {
            "gpt_neox.embed_in.weight": (v, d),
            "embed_out.weight": (v, d),
            "gpt_neox.final_layer_norm.weight": (d,),
            "gpt_neox.final_layer_norm.bias": (d,),
        }
        layer |= {
            "input_layernorm.bias": (d,),
            "post_attention_layernorm.bias": (d,),
            "attention.query_key_value.weight": (3 * d, d),
            "attention.query_key_value.bias": (3 * d,),
            "attention.dense.weight": (d, d),
            "attention.dense.bias": (d,),
            "mlp.dense_h_to_4h.weight": (f, d),
            "mlp.dense_h_to_4h.bias": (f,),
            "mlp.dense_4h_to_h.weight": (d, f),
            "mlp.dense_4h_to_h.bias": (d,),
        }
    else:
        prefix, names = "h.", {"wte.weight": (v, d), "wpe.weight": (64, d), "ln_f.weight": (d,), "ln_f.bias": (d,)}
        layer = {f"{norm}.{kind}": (d,) for norm in ("ln_1", "ln_2") for kind in ("weight", "bias")}
        for name, size_in, size_out in (
            ("attn.c_attn", d, 3 * d),
            ("attn.c_proj", d, d),
            ("mlp.c_fc", d, 4 * d),
            ("mlp.c_proj", 4 * d, d),
        ):
            layer |= {f"{name}.weight": (size_in, size_out), f"{name}.bias": (size_out,)}
    return names | {f"{prefix}{index}.{name}": shape for index in range(2) for name, shape in layer.items()}


def tensors_of(case: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape).astype(ml_dtypes.bfloat16) for name, shape in stored_shapes(case).items()}


Writer = Callable[[str, dict[str, np.ndarray]], Path]


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    def write_checkpoint(case: str, tensors: dict[str, np.ndarray]) -> Path:
        (tmp_path / "config.json").write_text(json.dumps(config_of(case)))
        save_file(tensors, tmp_path / "model.safetensors")
        return tmp_path

    return write_checkpoint


def opened(folder: Path) -> tuple[ModelGraph, CheckpointWeights]:
    spec = build_model(folder)
    weights = open_weights(folder, spec.graph, ignorable_tensors=spec.ignorable_tensors)
    assert isinstance(weights, CheckpointWeights)
    return spec.graph, weights


def arrays_of(model: ModelGraph, weights: Any) -> dict[str, np.ndarray]:
    return {
        part.prefix + name: weights.read(weight)
        for part in model.parts()
        for name, weight in part.graph.weights.items()
    }


ALL_CASES = [*CONFIGS, "gpt2"]


@pytest.mark.parametrize("case", ALL_CASES)
def test_published_names_and_shapes_load(case: str, write: Writer) -> None:
    tensors = tensors_of(case)
    model, weights = opened(write(case, tensors))
    arrays = arrays_of(model, weights)
    assert weights.total_bytes == sum(array.nbytes for array in tensors.values())
    assert {array.dtype for array in arrays.values()} == {np.dtype(ml_dtypes.bfloat16)}
    assert not any(array.flags.writeable for array in arrays.values())


def test_parts_of_one_tensor_are_views_of_it(write: Writer) -> None:
    tensors = tensors_of("phi3")
    model, weights = opened(write("phi3", tensors))
    projections = model.layers[1].graph.weights
    start = 0
    for name in ("q_proj", "k_proj", "v_proj"):
        array = weights.read(projections[f"self_attn.{name}.weight"])
        stored = tensors["model.layers.1.self_attn.qkv_proj.weight"][start : start + len(array)]
        np.testing.assert_array_equal(array, stored)
        assert not array.flags.owndata
        assert np.shares_memory(array, weights.read(projections[f"self_attn.{name}.weight"]))
        start += len(array)
    assert start == 48


def test_all_that_does_not_fit_is_named_at_once(write: Writer) -> None:
    tensors = tensors_of("llama")
    del tensors["model.norm.weight"], tensors["model.layers.1.mlp.up_proj.weight"]
    tensors["model.layers.0.mlp.down_proj.weight"] = np.zeros((48, 32), np.float32)
    tensors["model.layers.2.input_layernorm.weight"] = np.zeros(32, np.float32)
    with pytest.raises(ModelError) as refusal:
        opened(write("llama", tensors))
    text = str(refusal.value)
    assert "2 missing: model.layers.1.mlp.up_proj.weight, model.norm.weight" in text
    assert "1 unexpected: model.layers.2.input_layernorm.weight" in text
    assert "1 not as expected: model.layers.0.mlp.down_proj.weight is [48, 32], config.json makes it [32, 48]" in text


def test_shapes_are_checked_through_views(write: Writer) -> None:
    tensors = tensors_of("phi3")
    tensors["model.layers.0.self_attn.qkv_proj.weight"] = np.zeros((64, 32), np.float32)  # more rows than are read
    tensors["model.layers.1.mlp.gate_up_proj.weight"] = np.zeros((32, 96), np.float32)  # transposed
    with pytest.raises(ModelError) as refusal:
        opened(write("phi3", tensors))
    assert "qkv_proj.weight is [64, 32]" in str(refusal.value)
    assert "gate_up_proj.weight is [32, 96]" in str(refusal.value)


def test_quantized_tensors_are_not_taken_for_plain_ones(write: Writer) -> None:
    tensors = tensors_of("llama") | {"model.norm.weight": np.zeros(32, np.int8)}
    with pytest.raises(ModelError, match=r"model\.norm\.weight is stored as int8"):
        opened(write("llama", tensors))


def test_a_missing_expert_is_named_in_the_layout_that_is_there(write: Writer) -> None:
    tensors = tensors_of("mixtral")
    del tensors["model.layers.0.block_sparse_moe.experts.3.w3.weight"]
    with pytest.raises(ModelError, match=r"1 missing: model\.layers\.0\.block_sparse_moe\.experts\.3\.w3\.weight\n"):
        opened(write("mixtral", tensors))


def test_known_buffers_are_ignored_and_others_are_not(write: Writer) -> None:
    buffers = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": np.zeros(2, np.float32),
        "lm_head.weight": np.zeros((131, 32), np.float32),
    }  # the embedding is tied
    opened(write("llama", tensors_of("llama") | buffers))
    opened(write("gpt2", tensors_of("gpt2") | {"h.0.attn.bias": np.zeros((1, 1, 64, 64), np.float32)}))
    with pytest.raises(ModelError, match=r"1 unexpected: h\.0\.attn\.extra"):
        opened(write("gpt2", tensors_of("gpt2") | {"h.0.attn.extra": np.zeros(1, np.float32)}))


def fused_mixtral(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    out = {name: array for name, array in tensors.items() if "block_sparse_moe" not in name}
    for layer in ("model.layers.0.", "model.layers.1."):

        def experts(name: str, layer: str = layer) -> np.ndarray:
            return np.stack([tensors[f"{layer}block_sparse_moe.experts.{i}.{name}.weight"] for i in range(4)])

        out[f"{layer}mlp.gate.weight"] = tensors[f"{layer}block_sparse_moe.gate.weight"]
        out[f"{layer}mlp.experts.gate_up_proj"] = np.concatenate([experts("w1"), experts("w3")], axis=1)
        out[f"{layer}mlp.experts.down_proj"] = experts("w2")
    return out


@pytest.mark.parametrize(
    ("case", "other_layout"),
    [
        ("mixtral", fused_mixtral),
        ("gpt2", lambda tensors: {f"transformer.{name}": array for name, array in tensors.items()}),
        ("gpt_neox", lambda tensors: {name.replace("embed_out", "lm_head"): array for name, array in tensors.items()}),
    ],
)
def test_both_layouts_of_a_family_give_the_same_weights(
    case: str, other_layout: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]], write: Writer
) -> None:
    tensors = tensors_of(case)
    first = arrays_of(*opened(write(case, tensors)))
    second = arrays_of(*opened(write(case, other_layout(tensors))))
    assert first.keys() == second.keys()
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name], err_msg=name)


def test_a_sharded_checkpoint_gives_the_same_weights(write: Writer) -> None:
    tensors = tensors_of("llama")
    folder = write("llama", tensors)
    whole = arrays_of(*opened(folder))
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    weight_map = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        save_file({name: tensors[name] for name in part}, folder / f"model-0000{number}-of-00002.safetensors")
        weight_map |= dict.fromkeys(part, f"model-0000{number}-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    for name, array in arrays_of(*opened(folder)).items():
        np.testing.assert_array_equal(array, whole[name], err_msg=name)


def place(full: np.ndarray, local: np.ndarray, shape: tuple[Dim, ...], axes: Any, rank: int, tp: int) -> None:
    """Writes a rank's part where it belongs; what is beyond the full size must be zero padding."""
    target, taken = [], []
    for dim, size in zip(shape, local.shape, strict=True):
        symbols = [symbol for symbol in dim.symbols if axes[symbol].full is not None]
        if not symbols:
            target.append(slice(0, size))
            taken.append(slice(0, size))
            continue
        coefficient = dim.terms[0][1]
        start, stop = (edge * coefficient for edge in axis_range(axes[symbols[0]], rank, tp))
        target.append(slice(start, stop))
        taken.append(slice(0, stop - start))
    assert not local[tuple(slice(part.stop, None) for part in taken[:1])].any()
    full[tuple(target)] = local[tuple(taken)]


@pytest.mark.parametrize("tp", [2, 4])
@pytest.mark.parametrize("case", ALL_CASES)
def test_the_parts_of_all_ranks_make_up_the_weight(case: str, tp: int, write: Writer) -> None:
    """Two KV heads over four ranks are replicated, 131 tokens are padded, experts are shared out."""
    folder = write(case, tensors_of(case))
    model, weights = opened(folder)
    whole = arrays_of(model, weights)
    cut = shard(model, tp)
    ranks = [CheckpointWeights(folder, cut, rank, tp) for rank in range(tp)]
    for part in cut.parts():
        for name, weight in part.graph.weights.items():
            if name in ("mlp.experts.gate_up_proj", "mlp.experts.down_proj"):
                expected_size = len(whole[part.prefix + name]) // tp
                assert all(len(rank.read(weight)) == expected_size for rank in ranks)
            full = np.full(whole[part.prefix + name].shape, np.nan, ml_dtypes.bfloat16)
            for number, rank in enumerate(ranks):
                place(full, rank.read(weight), weight.shape, cut.axes, number, tp)
            np.testing.assert_array_equal(full, whole[part.prefix + name], err_msg=part.prefix + name)
    assert all(rank.total_bytes < weights.total_bytes for rank in ranks)


def test_merged_projections_are_cut_before_they_are_joined(write: Writer) -> None:
    folder = write("qwen2", tensors_of("qwen2"))
    model, weights = opened(folder)
    separate = {name.removeprefix("model.layers.0."): array for name, array in arrays_of(model, weights).items()}
    cut = optimize(shard(model, 2), frozenset())
    merged = [weight for weight in cut.layers[0].graph.weights.values() if weight.shape[0].symbols > {"kv_heads"}]
    assert len(merged) == 2, "a weight and a bias"
    for weight in merged:
        kind = "weight" if len(weight.shape) == 2 else "bias"
        expected = np.concatenate(
            [
                separate[f"self_attn.{name}_proj.{kind}"][rows]
                for name, rows in (("q", slice(16, None)), ("k", slice(4, None)), ("v", slice(4, None)))
            ]
        )
        np.testing.assert_array_equal(CheckpointWeights(folder, cut, 1, 2).read(weight), expected)


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model."])
def test_the_language_model_of_an_image_text_checkpoint_loads(prefix: str, tmp_path: Path) -> None:
    text = {
        **SHAPE,
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "head_dim": 8,
        "sliding_window": 9,
    }
    plain = build_model_from_config(text).graph
    sizes = plain.axis_sizes()
    rng = np.random.default_rng(0)
    tensors = {
        weight.source.name: rng.standard_normal([dim.evaluate(sizes) for dim in weight.shape], np.float32)
        for part in plain.parts()
        for weight in part.graph.weights.values()
    }
    for folder, names in (
        (tmp_path / "text", tensors),
        (
            tmp_path / "both",
            {
                **{name.replace("model.", prefix, 1): array for name, array in tensors.items()},
                "vision_tower.a": np.zeros(1, np.float32),
                "multi_modal_projector.b": np.zeros(1, np.float32),
            },
        ),
    ):
        folder.mkdir()
        save_file(names, folder / "model.safetensors")
    both = {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "text_config": text}
    (tmp_path / "both" / "config.json").write_text(json.dumps(both))
    (tmp_path / "text" / "config.json").write_text(json.dumps(text))
    from_both, from_text = (list(arrays_of(*opened(tmp_path / name)).values()) for name in ("both", "text"))
    for array, expected in zip(from_both, from_text, strict=True):
        np.testing.assert_array_equal(array, expected)
    assert [part.signature() for part in build_model(tmp_path / "both").graph.layers] == [
        part.signature() for part in plain.layers
    ]
    assert load_file(tmp_path / "text" / "model.safetensors").keys() == tensors.keys()
