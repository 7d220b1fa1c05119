"""AWQ layers of version gemm, written integer by integer, are read back to the numbers they stand for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from quire.errors import ModelError
from quire.weights.formats.quantized.awq import open_awq
from quire.weights.formats.quantized.quantized_safetensors import QuantizedSafetensors
from quire.weights.formats.safetensors.checkpoint import SafetensorsCheckpoint
from quire.weights.schemes import dequantize
from tests.quantized_layers import awq_tensors, of_module, random_layer

NAME = "model.layers.0.self_attn.q_proj"
CONFIG = {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "zero_point": True}


def opened(folder: Path, tensors: dict[str, np.ndarray], **config: Any) -> QuantizedSafetensors:
    save_file(tensors, folder / "model.safetensors")
    return open_awq(folder, CONFIG | config, SafetensorsCheckpoint(folder))


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize(
    ("group_size", "scheme"), [(32, "int4_g32"), (64, "int4_g64"), (128, "int4_g128"), (-1, "int4_g128")]
)
def test_every_group_size(group_size: int, scheme: str, zeros: bool, tmp_path: Path, rng: np.random.Generator) -> None:
    layer = random_layer(rng, 24, 256, group_size=group_size, zeros=zeros)
    tensors = of_module(NAME, awq_tensors(layer)) | {"lm_head.weight": np.ones((3, 4), np.float16)}
    files = opened(tmp_path, tensors, group_size=group_size, zero_point=zeros)
    assert set(files.names) == {f"{NAME}.weight", "lm_head.weight"}
    assert files.scheme("lm_head.weight") == "plain"
    assert files.scheme(f"{NAME}.weight") == scheme + "_zp" * zeros
    assert files.shape(f"{NAME}.weight") == (24, 256)
    np.testing.assert_array_equal(dequantize(files.quantized(f"{NAME}.weight")), layer.dense())
    np.testing.assert_array_equal(files.tensor(f"{NAME}.weight"), layer.dense())


def test_zero_points_are_kept_though_the_configuration_denies_them(tmp_path: Path, rng: np.random.Generator) -> None:
    layer = random_layer(rng, 16, 64, zeros=True)
    files = opened(tmp_path, of_module(NAME, awq_tensors(layer)), zero_point=False)
    assert files.scheme(f"{NAME}.weight") == "int4_g32_zp"
    np.testing.assert_array_equal(files.tensor(f"{NAME}.weight"), layer.dense())


def test_the_names_of_older_files(tmp_path: Path, rng: np.random.Generator) -> None:
    layer = random_layer(rng, 8, 64, group_size=64, zeros=True)
    save_file(of_module(NAME, awq_tensors(layer)), tmp_path / "model.safetensors")
    config = {"w_bit": 4, "q_group_size": 64, "version": "GEMM"}
    files = open_awq(tmp_path, config, SafetensorsCheckpoint(tmp_path))
    np.testing.assert_array_equal(files.tensor(f"{NAME}.weight"), layer.dense())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"scales": None}, "no model.layers.0.self_attn.q_proj.scales"),
        ({"qzeros": None}, "no model.layers.0.self_attn.q_proj.qzeros"),
        ({"scales": np.ones((2, 8), np.float16)}, "scales is"),
        ({"qzeros": np.zeros((2, 3), np.int32)}, "qzeros is"),
        ({"qweight": np.zeros((65, 2), np.int32)}, "do not divide its 65 inputs"),
        ({"weight": np.zeros((16, 64), np.float16)}, "as floats and as integers"),
    ],
)
def test_layers_that_do_not_fit_are_refused_by_name(
    change: dict[str, Any], reason: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    tensors = awq_tensors(random_layer(rng, 16, 64)) | change
    with pytest.raises(ModelError, match=reason):
        opened(tmp_path, of_module(NAME, {key: array for key, array in tensors.items() if array is not None}))


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"version": "gemv"}, "'gemv'"),
        ({"version": "gemv_fast"}, "'gemv_fast'"),
        ({"version": "marlin"}, "'marlin'"),
        ({"bits": 3}, "3 bits"),
        ({"group_size": None}, "group_size=None"),
    ],
)
def test_variants_that_are_not_read_are_refused(
    config: dict[str, Any], reason: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    with pytest.raises(ModelError, match=reason):
        opened(tmp_path, of_module(NAME, awq_tensors(random_layer(rng, 8, 32))), **config)
