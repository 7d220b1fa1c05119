"""Checkpoints that are already quantized, on devices, against transformers with the weights they stand for.

transformers itself reads GPTQ and AWQ through gptqmodel, which is published as source only, to be built: there it runs
the dequantized weights in float32. Files of compressed-tensors it reads itself where that package is installed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

from quire.errors import ModelError
from quire.graph.passes import optimize
from quire.graph.shard import shard
from quire.models import build_model
from quire.weights import open_checkpoint, open_weights
from quire_cpu import _native
from tests.models.checkpoints import full_forward, make_model
from tests.models.harness import LoadedModel, load_model, one_chunk, random_chunks, run_greedy
from tests.models.quantized_checkpoints import FORMATS, save_quantized
from tests.models.test_equality import prompt_of, relative_error

EXACT = 1e-4
WIDE_ON_CPU = 1e-3  # activations of 16 bits
NARROW_ON_CPU = 0.06  # activations of 8 bits, of random weights that amplify; half the rows are closer than this
CASES = [
    *(("llama", name) for name in FORMATS),
    ("qwen3", "gptq_asym"),
    ("qwen3", "w8a8"),
    ("phi3", "awq"),
    ("qwen3_moe", "gptq"),
    ("qwen3_moe", "awq"),
    ("mixtral", "w4a16"),
    ("mixtral", "w8a8"),
]


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """quantized(model, format) -> a folder with quantized/ and float32/, made when first asked for."""
    root = tmp_path_factory.mktemp("quantized")

    def folder_of(model: str, form: str) -> Path:
        folder = root / f"{model}-{form}"
        if not folder.exists():
            save_quantized(model, form, folder)
        return folder

    return folder_of


@pytest.mark.parametrize(("model", "form"), CASES)
@pytest.mark.parametrize(("device", "kernels"), [("reference", ""), ("cpu", ""), ("cpu", "avx2")])
def test_logits_and_tokens_are_those_of_the_weights_it_stands_for(
    model: str, form: str, device: str, kernels: str, quantized: Callable[[str, str], Path]
) -> None:
    """`kernels`: those of this machine, whose activations may have 8 bits; avx2, whose int8 has them in 16."""
    if kernels and kernels not in _native.available_kernels():
        pytest.skip(f"this machine has no {kernels} kernels")
    folder, prompt = quantized(model, form), prompt_of(model)
    loaded = load_model(folder / "quantized", device, options={"kernels": kernels} if kernels else {})
    try:
        whole = run_greedy(loaded, prompt, 12, one_chunk)
        chunked = run_greedy(loaded, prompt, 12, random_chunks(np.random.default_rng(1)), seed=1)
    finally:
        loaded.executor.close()
    files = open_checkpoint(folder / "quantized")
    assert schemes_of(loaded) == {files.scheme(name) for name in files.names}
    assert (schemes_of(loaded) == {"plain"}) == FORMATS[form].act_order
    expected = full_forward(folder / "float32", [*prompt, *whole[1][:-1]])
    if device == "cpu":
        np.testing.assert_array_equal(chunked[0], whole[0])
    wide_activations = kernels == "avx2" and FORMATS[form].bits == 8
    exact = device == "reference" or wide_activations or FORMATS[form].act_order
    for logits, tokens in (whole, chunked):
        if exact:
            assert relative_error(logits, expected) <= (EXACT if device == "reference" else WIDE_ON_CPU)
            assert tokens == [int(token) for token in expected[len(prompt) - 1 :].argmax(axis=-1)]
        else:
            assert typical_error(logits, expected) <= NARROW_ON_CPU
            assert np.count_nonzero(np.array(tokens) == expected[len(prompt) - 1 :].argmax(axis=-1)) >= 8


def schemes_of(loaded: LoadedModel) -> set[str]:
    return {weight.scheme for part in loaded.model.parts() for weight in part.graph.weights.values()}


def typical_error(logits: np.ndarray, expected: np.ndarray) -> float:
    """The median row's: a router that was near a tie may choose another expert for a token or two."""
    return float(np.median(np.abs(logits - expected).max(axis=-1)) / np.abs(expected).max())


@pytest.mark.parametrize(
    ("form", "tensor", "change"),
    [
        ("gptq_asym", "mlp.up_proj.qzeros", 0x11111111),
        ("awq", "self_attn.v_proj.qzeros", 0x11111111),
        ("awq", "mlp.down_proj.qweight", 0x10),
        ("w4a16", "self_attn.v_proj.weight_packed", 0x100),
    ],
)
def test_a_wrong_integer_is_seen(
    form: str, tensor: str, change: int, quantized: Callable[[str, str], Path], tmp_path: Path
) -> None:
    """What keeps the comparison honest: integers off by one in one kind of layer go beyond the tolerance."""
    folder, prompt = quantized("llama", form), prompt_of("llama")
    (tmp_path / "config.json").write_text((folder / "quantized" / "config.json").read_text())
    tensors = load_file(folder / "quantized" / "model.safetensors")
    for name in tensors:
        if name.endswith(tensor):
            tensors[name] = (tensors[name].view(np.uint32) + np.uint32(change)).view(np.int32)
    save_file(tensors, tmp_path / "model.safetensors")
    logits, _ = run_greedy(load_model(tmp_path, "cpu"), prompt, 1)
    expected = full_forward(folder / "float32", prompt)
    assert typical_error(logits, expected) > 1.5 * NARROW_ON_CPU


@pytest.mark.parametrize(("model", "form"), [("llama", "gptq_asym"), ("qwen3_moe", "awq"), ("mixtral", "w8a8")])
def test_ranks_read_their_parts(model: str, form: str, quantized: Callable[[str, str], Path]) -> None:
    folder = quantized(model, form)
    for rank in range(2):
        parts = {}
        for kind in ("quantized", "float32"):
            spec = build_model(folder / kind)
            cut = optimize(shard(spec.graph, 2), frozenset())
            weights = open_weights(
                folder / kind, cut, rank=rank, world_size=2, ignorable_tensors=spec.ignorable_tensors
            )
            parts[kind] = [weights.read(weight) for part in cut.parts() for weight in part.graph.weights.values()]
        for found, expected in zip(parts["quantized"], parts["float32"], strict=True):
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_a_bias_that_the_model_has_not_may_be_zeros_only(
    value: float, quantized: Callable[[str, str], Path], tmp_path: Path
) -> None:
    source = quantized("llama", "gptq") / "quantized"
    (tmp_path / "config.json").write_text((source / "config.json").read_text())
    tensors = load_file(source / "model.safetensors")
    biases = {
        name.replace("qweight", "bias"): np.full(array.shape[1], value, np.float16)
        for name, array in tensors.items()
        if name.endswith("qweight")
    }
    save_file(tensors | biases, tmp_path / "model.safetensors")
    spec = build_model(tmp_path)
    if value:
        with pytest.raises(ModelError, match=r"21 unexpected: .*q_proj\.bias"):
            open_weights(tmp_path, spec.graph)
    else:
        open_weights(tmp_path, spec.graph)


def _half(scales: torch.Tensor) -> torch.Tensor:
    """Rounded to what scales of published checkpoints are, and kernels hold."""
    return scales.half().float()


def compress(folder: Path, model: Any, **arguments: Any) -> None:
    """The model as compressed-tensors writes it: weights rounded to nearest."""
    pytest.importorskip("compressed_tensors", reason="compressed-tensors (the test extra has it) is not installed")
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import (
        QuantizationArgs,
        QuantizationConfig,
        QuantizationScheme,
        apply_quantization_config,
    )

    scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**arguments))
    if arguments["strategy"] == "channel":
        scheme.input_activations = QuantizationArgs(num_bits=8, strategy="token", dynamic=True)
    apply_quantization_config(model, QuantizationConfig(config_groups={"group_0": scheme}, ignore=["lm_head"]))
    for module in model.modules():
        if hasattr(module, "weight_scale"):
            groups = module.weight.data.reshape(*module.weight_scale.shape, -1)
            low, high = groups.amin(-1).clamp(max=0), groups.amax(-1).clamp(min=0)
            if arguments["symmetric"]:
                module.weight_scale.data = _half(torch.maximum(-low, high) / (2 ** (arguments["num_bits"] - 1) - 0.5))
            else:
                module.weight_scale.data = _half((high - low) / 15)
                module.weight_zero_point.data = (torch.round(-low / module.weight_scale) - 8).to(torch.int8)
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    model.save_pretrained(folder)
    compressor.update_config(str(folder))


@pytest.mark.parametrize(
    ("arguments", "scheme", "stored"),
    [
        ({"num_bits": 4, "strategy": "group", "group_size": 32, "symmetric": True}, "int4_g32", "weight_packed"),
        (
            {"num_bits": 4, "strategy": "group", "group_size": 32, "symmetric": False},
            "int4_g32_zp",
            "weight_zero_point",
        ),
        ({"num_bits": 8, "strategy": "group", "group_size": 32, "symmetric": True}, "int8_g32", "weight_packed"),
        ({"num_bits": 8, "strategy": "channel", "symmetric": True}, "int8", "weight"),
    ],
)
def test_files_of_compressed_tensors_read_as_transformers_reads_them(
    arguments: dict[str, Any], scheme: str, stored: str, tmp_path: Path
) -> None:
    model = make_model("llama")
    compress(tmp_path, model, **arguments)
    held = load_file(tmp_path / "model.safetensors")
    assert f"model.layers.1.mlp.down_proj.{stored}" in held
    assert stored != "weight" or min(array.min() for array in held.values() if array.dtype == np.int8) == -128
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32, quantization_config=transformers.CompressedTensorsConfig(dequantize=True)
    )
    files = open_checkpoint(tmp_path)
    assert files.scheme("model.layers.1.mlp.down_proj.weight") == scheme
    for name, parameter in theirs.named_parameters():
        np.testing.assert_array_equal(files.tensor(name), parameter.detach().numpy(), err_msg=name)
    prompt = prompt_of("llama")
    on_cpu = [("cpu", {})] + [("cpu", {"kernels": "avx2"})] * ("avx2" in _native.available_kernels())
    for device, options in [("reference", {}), *on_cpu]:
        loaded = load_model(tmp_path, device, options=options)
        assert schemes_of(loaded) == {"plain", scheme}
        logits, tokens = run_greedy(loaded, prompt, 8)
        with torch.no_grad():
            expected = theirs.eval()(torch.tensor([[*prompt, *tokens[:-1]]]), use_cache=False).logits[0].numpy()
        if device == "cpu" and not (options and "int8" in scheme):
            assert typical_error(logits, expected) <= NARROW_ON_CPU
            continue
        assert relative_error(logits, expected) <= (EXACT if device == "reference" else WIDE_ON_CPU)
        assert tokens == [int(token) for token in expected[len(prompt) - 1 :].argmax(axis=-1)]
