"""Layers in the integer formats of compressed-tensors, written by hand, are read back to the numbers they stand for.

Files that compressed-tensors itself wrote are read in tests/e2e/test_quantized_checkpoints.py.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from quire.errors import ModelError
from quire.weights.formats.quantized.compressed_tensors import open_compressed_tensors
from quire.weights.formats.quantized.quantized_safetensors import QuantizedSafetensors
from quire.weights.formats.safetensors.checkpoint import SafetensorsCheckpoint
from quire.weights.schemes import dequantize
from tests.quantized_layers import Layer, bfloat16, int8_tensors, of_module, packed_tensors, random_layer

NAME = "model.layers.0.self_attn.o_proj"


def weights(**change: Any) -> dict[str, Any]:
    return {
        "num_bits": 4,
        "type": "int",
        "symmetric": True,
        "strategy": "group",
        "group_size": 32,
        "dynamic": False,
        **change,
    }


def config(stored_format: str = "pack-quantized", *, targets: tuple[str, ...] = ("Linear",), **change: Any) -> Any:
    group = {"targets": list(targets), "weights": weights(**change), "input_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": stored_format,
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
        "quantization_status": "compressed",
    }


def opened(folder: Path, tensors: dict[str, np.ndarray], settings: dict[str, Any]) -> QuantizedSafetensors:
    save_file(tensors, folder / "model.safetensors")
    return open_compressed_tensors(folder, settings, SafetensorsCheckpoint(folder))


def check(files: QuantizedSafetensors, layer: Layer, scheme: str) -> None:
    name = f"{NAME}.weight"
    assert list(files.names) == [name]
    assert files.scheme(name) == scheme
    assert files.shape(name) == layer.q.shape
    np.testing.assert_array_equal(dequantize(files.quantized(name)), layer.dense())
    np.testing.assert_array_equal(files.tensor(name), layer.dense())


@pytest.mark.parametrize("zeros", ["", "packed", "int8"])
@pytest.mark.parametrize(
    ("group_size", "inputs", "scheme"),
    [
        (32, 96, "int4_g32"),
        (64, 128, "int4_g64"),
        (128, 256, "int4_g128"),
        (-1, 100, "int4_g128"),
    ],
)
def test_four_bits_packed(
    zeros: str, group_size: int, inputs: int, scheme: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    layer = random_layer(rng, 20, inputs, group_size=group_size, zeros=bool(zeros))  # 20 outputs: no whole last word
    settings = config(symmetric=not zeros, group_size=group_size, strategy="channel" if group_size == -1 else "group")
    tensors = of_module(NAME, packed_tensors(layer, zeros=zeros))
    check(opened(tmp_path, tensors, settings), layer, scheme + "_zp" * bool(zeros))


@pytest.mark.parametrize(("group_size", "scheme"), [(-1, "int8"), (64, "int8_g64")])
def test_eight_bits_packed(group_size: int, scheme: str, tmp_path: Path, rng: np.random.Generator) -> None:
    layer = random_layer(rng, 20, 128, bits=8, group_size=group_size)
    settings = config(num_bits=8, group_size=group_size, strategy="channel" if group_size == -1 else "group")
    check(opened(tmp_path, of_module(NAME, packed_tensors(layer, 8)), settings), layer, scheme)


@pytest.mark.parametrize("stored_format", ["int-quantized", "naive-quantized"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_eight_bits_as_bytes(stored_format: str, dtype: type, tmp_path: Path, rng: np.random.Generator) -> None:
    layer = random_layer(rng, 20, 96, bits=8, group_size=-1, dtype=dtype)
    settings = config(stored_format, num_bits=8, strategy="channel", group_size=None)
    check(opened(tmp_path, of_module(NAME, int8_tensors(layer)), settings), layer, "int8")


def test_four_bits_as_bytes(tmp_path: Path, rng: np.random.Generator) -> None:
    layer = random_layer(rng, 20, 96)
    check(opened(tmp_path, of_module(NAME, int8_tensors(layer, 4)), config("int-quantized")), layer, "int4_g32")


def test_one_scale_for_the_matrix(tmp_path: Path, rng: np.random.Generator) -> None:
    layer = random_layer(rng, 20, 96, bits=8, group_size=-1)
    layer.scales[:] = layer.scales[0, 0]
    tensors = int8_tensors(layer) | {"weight_scale": layer.scales[0]}
    settings = config("int-quantized", num_bits=8, strategy="tensor", group_size=None)
    check(opened(tmp_path, of_module(NAME, tensors), settings), layer, "int8")


def test_scales_may_be_bfloat16_and_zero_points_all_zero(tmp_path: Path, rng: np.random.Generator) -> None:
    layer = random_layer(rng, 8, 64)
    layer.scales = bfloat16(layer.scales)
    check(opened(tmp_path, of_module(NAME, packed_tensors(layer, zeros="int8")), config()), layer, "int4_g32")


def test_scattered_groups_are_read_as_floats_and_said(tmp_path: Path, rng: np.random.Generator) -> None:
    layer = random_layer(rng, 16, 64, group_of=rng.permutation([0] * 32 + [1] * 32))
    files = opened(tmp_path, of_module(NAME, packed_tensors(layer, g_idx=True)), config(actorder="group"))
    assert set(files.dequantized) == {f"{NAME}.weight"}
    assert files.scheme(f"{NAME}.weight") == "plain"
    assert files.dtype(f"{NAME}.weight") == np.float16
    np.testing.assert_array_equal(files.tensor(f"{NAME}.weight"), layer.dense().astype(np.float16))


@pytest.mark.parametrize("g_idx", [[0] * 32 + [1] * 32, [1] * 32 + [0] * 32, [-1] * 64])
def test_groups_in_any_order_stay_integers(g_idx: list[int], tmp_path: Path, rng: np.random.Generator) -> None:
    layer = random_layer(rng, 16, 64, group_of=g_idx if g_idx[0] >= 0 else None)
    tensors = packed_tensors(layer, g_idx=True) | {"weight_g_idx": np.array(g_idx, np.int32)}
    check(opened(tmp_path, of_module(NAME, tensors), config()), layer, "int4_g32")


def test_eight_bits_with_zero_points_are_read_as_floats(tmp_path: Path, rng: np.random.Generator) -> None:
    layer = random_layer(rng, 8, 64, bits=8, zeros=True)
    files = opened(
        tmp_path, of_module(NAME, packed_tensors(layer, 8, zeros="packed")), config(num_bits=8, symmetric=False)
    )
    assert "zero points" in files.dequantized[f"{NAME}.weight"]
    np.testing.assert_array_equal(files.tensor(f"{NAME}.weight"), layer.dense().astype(np.float16))


def test_scales_of_activations_and_cache_are_left_aside_aloud(
    tmp_path: Path, rng: np.random.Generator, caplog: pytest.LogCaptureFixture
) -> None:
    layer = random_layer(rng, 8, 64, bits=8, group_size=-1)
    one = np.ones(1, np.float16)
    tensors = of_module(NAME, int8_tensors(layer) | {"input_scale": one, "input_zero_point": np.zeros(1, np.int8)})
    settings = config("int-quantized", num_bits=8, strategy="channel", group_size=None)
    settings["config_groups"]["group_0"]["input_activations"] = weights(num_bits=8, strategy="tensor")
    with caplog.at_level(logging.WARNING, "quire"):
        check(opened(tmp_path, tensors, settings), layer, "int8")
    assert "input_scale" in caplog.text
    assert "KV cache" not in caplog.text
    caplog.clear()
    cache = {"model.layers.0.self_attn.k_scale": one, "model.layers.0.self_attn.v_scale": one}
    settings["config_groups"]["group_0"]["input_activations"] = weights(num_bits=8, strategy="token", dynamic=True)
    with caplog.at_level(logging.WARNING, "quire"):
        check(opened(tmp_path, of_module(NAME, int8_tensors(layer)) | cache, settings), layer, "int8")
    assert "KV cache" in caplog.text
    assert "input_scale" not in caplog.text


def test_a_layer_belongs_to_the_group_that_fits_it_best(tmp_path: Path, rng: np.random.Generator) -> None:
    tensors = {
        **of_module("model.layers.0.a", packed_tensors(random_layer(rng, 8, 128))),
        **of_module("model.layers.0.experts.3.b", packed_tensors(random_layer(rng, 8, 128, group_size=64))),
        **of_module("lm_head", int8_tensors(random_layer(rng, 8, 128, bits=8, group_size=-1))),
    }
    settings = config()
    settings |= {
        "format": "mixed-precision",
        "config_groups": {
            "every": {"targets": ["Linear"], "weights": weights(), "format": "pack-quantized"},
            "experts": {"targets": ["re:.*experts.*"], "weights": weights(group_size=64), "format": "pack-quantized"},
            "head": {
                "targets": ["lm_head"],
                "weights": weights(num_bits=8, strategy="channel"),
                "format": "int-quantized",
            },
        },
    }
    files = opened(tmp_path, tensors, settings)
    assert {name: files.scheme(name) for name in files.names} == {
        "model.layers.0.a.weight": "int4_g32",
        "model.layers.0.experts.3.b.weight": "int4_g64",
        "lm_head.weight": "int8",
    }


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"weight_scale": None}, f"no {NAME}.weight_scale"),
        ({"weight_shape": None}, f"no {NAME}.weight_shape"),
        ({"weight_packed": None}, f"no {NAME}.weight"),
        ({"weight_packed": np.zeros((16, 7), np.int32)}, "weight_packed is"),
        ({"weight_shape": np.array([16, 128])}, "weight_packed is"),
        ({"weight_scale": np.ones((16, 1), np.float16)}, "weight_scale is"),
        ({"weight_zero_point": np.ones((16, 1), np.int8)}, "weight_zero_point is"),
        ({"weight_zero_point": np.ones((16, 2), np.int32)}, "weight_zero_point is"),
        ({"weight_g_idx": np.zeros(3, np.int32)}, "weight_g_idx is"),
        ({"weight": np.zeros((16, 64), np.float16)}, "as floats and as integers"),
        ({"weight": np.zeros((16, 64), np.float16), "weight_packed": None, "weight_shape": None}, "weight is float16"),
    ],
)
def test_layers_that_do_not_fit_are_refused_by_name(
    change: dict[str, Any], reason: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    tensors = packed_tensors(random_layer(rng, 16, 64)) | change
    present = {suffix: array for suffix, array in tensors.items() if array is not None}
    with pytest.raises(ModelError, match=reason):
        opened(tmp_path, of_module(NAME, present), config())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"group_size": 48}, "do not divide its 64 inputs"),
        ({"symmetric": False}, "is not symmetric"),
        ({"num_bits": 3}, "3 bits"),
        ({"type": "float", "num_bits": 8}, "8 bits of type 'float'"),
        ({"strategy": "block", "block_structure": [128, 128]}, "'block'"),
        ({"strategy": "group", "group_size": 0}, "'group'"),
        ({"targets": ("re:.*mlp.*",)}, "no such layer"),
    ],
)
def test_groups_that_are_not_read_are_refused(
    change: dict[str, Any], reason: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    with pytest.raises(ModelError, match=reason):
        opened(tmp_path, of_module(NAME, packed_tensors(random_layer(rng, 16, 64))), config(**change))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"format": "float-quantized"}, "'float-quantized'"),
        ({"format": "nvfp4-pack-quantized"}, "'nvfp4-pack"),
        ({"format": "marlin-24"}, "'marlin-24'"),
        ({"format": "dense"}, "'dense'"),
        ({"sparsity_config": {"format": "sparse-24-bitmask"}}, "'sparse-24-bitmask'"),
        ({"transform_config": {"config_groups": {"R1": {}}}}, "transform_config"),
        ({"config_groups": {}}, "no config_groups"),
        ({"config_groups": {"W8A8": ["Linear"]}}, "config_groups.W8A8"),
        ({"config_groups": {"a": {"targets": ["Linear"], "weights": None}}}, "without weights"),
        (
            {
                "config_groups": {
                    "a": {"targets": ["Linear"], "weights": weights()},
                    "b": {"targets": ["Linear"], "weights": weights(group_size=64)},
                }
            },
            "several ways",
        ),
    ],
)
def test_formats_that_are_not_read_are_refused(
    change: dict[str, Any], reason: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    with pytest.raises(ModelError, match=reason):
        opened(tmp_path, of_module(NAME, packed_tensors(random_layer(rng, 16, 64))), config() | change)
