"""GPTQ layers, written integer by integer, are read back to the numbers they stand for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from quire.errors import InternalError, ModelError
from quire.weights.formats.quantized.gptq import open_gptq
from quire.weights.formats.quantized.quantized_safetensors import QuantizedSafetensors
from quire.weights.formats.safetensors.checkpoint import SafetensorsCheckpoint
from quire.weights.schemes import dequantize
from tests.quantized_layers import Layer, bfloat16, gptq_tensors, of_module, random_layer

NAME = "model.layers.0.mlp.up_proj"
CONFIG = {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": True, "desc_act": False}


def opened(folder: Path, tensors: dict[str, np.ndarray], **config: Any) -> QuantizedSafetensors:
    save_file(tensors, folder / "model.safetensors")
    return open_gptq(folder, CONFIG | config, SafetensorsCheckpoint(folder))


def check(files: QuantizedSafetensors, layer: Layer, scheme: str) -> None:
    """The layer reads as a matrix of the scheme, to the last bit of the definition."""
    name = f"{NAME}.weight"
    assert list(files.names) == [name]
    assert name in files
    assert f"{NAME}.qweight" not in files
    assert files.shape(name) == layer.q.shape
    assert files.scheme(name) == scheme
    assert files.dtype(name) == np.float32
    expected = layer.dense()
    np.testing.assert_array_equal(dequantize(files.quantized(name)), expected)
    np.testing.assert_array_equal(files.tensor(name), expected)


@pytest.mark.parametrize("v2", [False, True])
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize(
    ("group_size", "inputs", "scheme"),
    [
        (-1, 96, "int4_g32"),
        (-1, 256, "int4_g128"),
        (32, 96, "int4_g32"),
        (64, 128, "int4_g64"),
        (128, 256, "int4_g128"),
        (128, 64, "int4_g64"),
        (256, 512, "int4_g128"),
        (64, 96, "int4_g64"),
    ],
)
def test_four_bits(
    v2: bool, zeros: bool, group_size: int, inputs: int, scheme: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    layer = random_layer(rng, 24, inputs, group_size=group_size if group_size < inputs else -1, zeros=zeros)
    files = opened(
        tmp_path,
        of_module(NAME, gptq_tensors(layer, v2=v2)),
        group_size=group_size,
        sym=not zeros,
        checkpoint_format="gptq_v2" if v2 else "gptq",
    )
    check(files, layer, scheme + "_zp" * zeros)


def test_a_zero_point_of_zero_borrows_in_version_1(tmp_path: Path, rng: np.random.Generator) -> None:
    layer = random_layer(rng, 16, 64, zeros=True)
    layer.zeros[3] = 0
    check(opened(tmp_path, of_module(NAME, gptq_tensors(layer)), sym=False), layer, "int4_g32_zp")


@pytest.mark.parametrize("group_size", [-1, 32])
@pytest.mark.parametrize("v2", [False, True])
def test_eight_bits_around_the_middle(v2: bool, group_size: int, tmp_path: Path, rng: np.random.Generator) -> None:
    layer = random_layer(rng, 12, 64, bits=8, group_size=group_size)
    files = opened(
        tmp_path,
        of_module(NAME, gptq_tensors(layer, 8, v2=v2)),
        bits=8,
        group_size=group_size,
        checkpoint_format="gptq_v2" if v2 else "gptq",
    )
    check(files, layer, "int8" if group_size == -1 else "int8_g32")
    assert files.quantized(f"{NAME}.weight").values[0, 0] == -128


def test_symmetric_by_name_but_not_by_zero_points_keeps_them(tmp_path: Path, rng: np.random.Generator) -> None:
    layer = random_layer(rng, 16, 64, zeros=True)
    check(opened(tmp_path, of_module(NAME, gptq_tensors(layer)), sym=True), layer, "int4_g32_zp")


def test_asymmetric_by_name_has_zero_points_whatever_they_are(tmp_path: Path, rng: np.random.Generator) -> None:
    layer = random_layer(rng, 16, 64)
    check(opened(tmp_path, of_module(NAME, gptq_tensors(layer)), sym=False), layer, "int4_g32_zp")


def test_scales_may_be_bfloat16_and_g_idx_absent(tmp_path: Path, rng: np.random.Generator) -> None:
    layer = random_layer(rng, 16, 64)
    layer.scales = bfloat16(layer.scales)
    check(opened(tmp_path, of_module(NAME, gptq_tensors(layer, g_idx=False))), layer, "int4_g32")


def test_groups_in_another_order_stay_integers(tmp_path: Path, rng: np.random.Generator) -> None:
    layer = random_layer(rng, 16, 96, zeros=True, group_of=[2] * 32 + [0] * 32 + [1] * 32)
    check(opened(tmp_path, of_module(NAME, gptq_tensors(layer)), sym=False, desc_act=True), layer, "int4_g32_zp")


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_scattered_groups_are_read_as_floats_and_said(dtype: type, tmp_path: Path, rng: np.random.Generator) -> None:
    layers = {
        name: random_layer(rng, 16, 64, zeros=True, dtype=dtype, group_of=rng.permutation([0] * 32 + [1] * 32))
        for name in ("a", "b")
    }
    straight = random_layer(rng, 16, 64, zeros=True, dtype=dtype)
    tensors = {
        key: array
        for name, layer in (*layers.items(), ("c", straight))
        for key, array in of_module(name, gptq_tensors(layer)).items()
    }
    files = opened(tmp_path, tensors, sym=False, desc_act=True)
    assert set(files.dequantized) == {"a.weight", "b.weight"}
    assert "desc_act" in files.dequantized["a.weight"]
    for name, layer in layers.items():
        assert files.scheme(f"{name}.weight") == "plain"
        assert files.dtype(f"{name}.weight") == dtype
        np.testing.assert_array_equal(files.tensor(f"{name}.weight"), layer.dense().astype(dtype))
        with pytest.raises(InternalError):
            files.quantized(f"{name}.weight")
    assert files.scheme("c.weight") == "int4_g32_zp"


def test_eight_bits_with_zero_points_are_read_as_floats(tmp_path: Path, rng: np.random.Generator) -> None:
    layer = random_layer(rng, 16, 64, bits=8, zeros=True)
    files = opened(tmp_path, of_module(NAME, gptq_tensors(layer, 8)), bits=8, sym=False)
    assert "zero points" in files.dequantized[f"{NAME}.weight"]
    assert files.scheme(f"{NAME}.weight") == "plain"
    np.testing.assert_array_equal(files.tensor(f"{NAME}.weight"), layer.dense().astype(np.float16))


def test_layers_that_dynamic_makes_different(tmp_path: Path, rng: np.random.Generator) -> None:
    tensors = {
        **of_module("a", gptq_tensors(random_layer(rng, 16, 128))),
        **of_module("b", gptq_tensors(random_layer(rng, 16, 128, bits=8, group_size=64), 8)),
        "c.weight": np.zeros((4, 4), np.float16),
        "a.bias": np.zeros(16, np.float16),
    }
    files = opened(tmp_path, tensors, dynamic={"+:b": {"bits": 8, "group_size": 64}, "-:c": {}})
    assert {name: files.scheme(name) for name in files.names} == {
        "a.weight": "int4_g32",
        "b.weight": "int8_g64",
        "a.bias": "plain",
        "c.weight": "plain",
    }
    assert files.tensor("c.weight").shape == files.shape("c.weight") == (4, 4)
    with pytest.raises(ModelError, match="b cannot be read"):
        opened(tmp_path, tensors)


def test_an_unknown_tensor_is_named(tmp_path: Path, rng: np.random.Generator) -> None:
    files = opened(tmp_path, of_module(NAME, gptq_tensors(random_layer(rng, 8, 32))))
    for ask in (files.shape, files.dtype, files.scheme, files.tensor, files.quantized):
        with pytest.raises(ModelError, match="no tensor nothing"):
            ask("nothing")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"scales": None}, "no model.layers.0.mlp.up_proj.scales"),
        ({"qzeros": None}, "qzeros"),
        ({"scales": np.ones((2, 8), np.float16)}, "scales is"),
        ({"scales": np.ones((3, 16), np.float16)}, "3 groups of its 64 inputs"),
        ({"scales": np.ones((2, 16), np.float64)}, "scales is float64"),
        ({"qzeros": np.zeros((2, 3), np.int32)}, "which is not 4 bits"),
        ({"qzeros": np.zeros((1, 2), np.int32)}, "qzeros is"),
        ({"qweight": np.zeros((8, 16), np.int64)}, "qweight is int64"),
        ({"qweight": np.zeros(8, np.int32)}, "1 dimensions"),
        ({"g_idx": np.zeros(63, np.int32)}, "g_idx is"),
        ({"g_idx": np.full(64, 7, np.int32)}, "g_idx has groups 7 to 7"),
        ({"g_idx": np.full(64, -1, np.int32)}, "g_idx has groups -1"),
        ({"weight": np.zeros((16, 64), np.float16)}, "as floats and as integers"),
    ],
)
def test_layers_that_do_not_fit_are_refused_by_name(
    change: dict[str, Any], reason: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    tensors = gptq_tensors(random_layer(rng, 16, 64)) | change
    present = {suffix: array for suffix, array in tensors.items() if array is not None}
    with pytest.raises(ModelError, match=reason) as error:
        opened(tmp_path, of_module(NAME, present))
    assert NAME in str(error.value)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"bits": 3}, "3 bits"),
        ({"bits": None}, "None bits"),
        ({"checkpoint_format": "marlin"}, "'marlin'"),
        ({"is_marlin_format": True}, "'marlin'"),
        ({"group_size": 0}, "group_size=0"),
        ({"group_size": "x"}, "group_size"),
        ({"pack_dtype": "int64"}, "pack_dtype"),
        ({"adapter": {"rank": 8}}, "an adapter"),
    ],
)
def test_variants_that_are_not_read_are_refused(
    config: dict[str, Any], reason: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    with pytest.raises(ModelError, match=reason):
        opened(tmp_path, of_module(NAME, gptq_tensors(random_layer(rng, 8, 32))), **config)
