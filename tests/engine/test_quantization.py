"""Which scheme a matrix gets: the user's word, the checkpoint's integers, the device's kernels; and what is refused."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quire import LLM, SamplingParams
from quire.engine.config import EngineConfig
from quire.engine.quantization import choose_schemes
from quire.errors import BackendError, ConfigError
from quire.graph.ir import Src
from quire.models import ModelSpec, build_model_from_config
from quire.reference.device import CAPABILITIES
from quire.weights.schemes import WeightScheme, quantize
from tests.weights.test_checkpoint import SHAPE
from tests.weights.test_quantized_expressions import Files, random_matrix

PLAIN_ONLY = replace(CAPABILITIES, weight_schemes=frozenset({"plain"}))
EIGHT_BITS = replace(CAPABILITIES, weight_schemes=frozenset({"plain", "int8"}))


def spec_of(**changes: Any) -> ModelSpec:
    return build_model_from_config({**SHAPE, "architectures": ["LlamaForCausalLM"], "model_type": "llama", **changes})


def stored_as(spec: ModelSpec, scheme_of: Any) -> Files:
    """The model's tensors; `scheme_of(name)` gives the scheme of a matrix, None = plain."""
    files, rng = Files(), np.random.default_rng(1)
    for part in spec.graph.parts():
        for weight in part.graph.weights.values():
            assert isinstance(weight.source, Src)
            name = weight.source.name
            shape = tuple(dim.evaluate(spec.graph.axis_sizes()) for dim in weight.source.shape)
            array = rng.standard_normal(shape).astype(np.float32)
            scheme = scheme_of(name) if len(shape) == 2 else None
            if scheme is None:
                files.plain[name] = array
            else:
                files.matrices[name] = quantize(array, WeightScheme.parse(scheme))
    return files


def in_layers(scheme: str) -> Any:
    return lambda name: scheme if "proj" in name else None


def layer_schemes(choice: Any) -> set[str]:
    return {weight.scheme for name, weight in choice.model.layers[0].graph.weights.items() if "proj" in name}


def head_scheme(choice: Any) -> str:
    return choice.model.heads["logits"].graph.weights["lm_head.weight"].scheme


@pytest.mark.parametrize(
    ("asked", "layers", "head"),
    [
        (None, "plain", "plain"),
        ("int8", "int8", "int8"),
        ("int4", "int4_g32", "int8"),
        ("int4_g64_zp", "int4_g64_zp", "int4_g64_zp"),
    ],
)
@pytest.mark.parametrize("opened", [False, True])
def test_floating_point_checkpoints_become_what_is_asked(asked: Any, layers: str, head: str, opened: bool) -> None:
    spec = spec_of()
    files = stored_as(spec, lambda name: None) if opened else None
    choice = choose_schemes(spec, files, asked, CAPABILITIES)
    assert layer_schemes(choice) == {layers}
    assert head_scheme(choice) == head
    assert not choice.notes


@pytest.mark.parametrize(
    ("asked", "capabilities", "match"),
    [
        ("int4", EIGHT_BITS, r"quantization='int4'\n.*no kernel for int4_g32\n.*one of int8"),
        ("int8", PLAIN_ONLY, r"no kernel for int8\n.*another --device: this one holds plain weights only"),
        ("int8_g48", CAPABILITIES, r"no kernel for int8_g48\n.*one of .*int8_g32"),
        ("awq", CAPABILITIES, r"quantization='awq'\n.*not in this format\n.*one of int4, "),
        ("int3", EIGHT_BITS, r"quantization='int3'\n.*not the name of a scheme\n.*one of int8$"),
    ],
)
def test_what_the_device_lacks_is_refused_with_what_it_has(asked: str, capabilities: Any, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        choose_schemes(spec_of(), None, asked, capabilities)


def test_integers_are_used_as_they_are() -> None:
    spec = spec_of()
    choice = choose_schemes(spec, stored_as(spec, in_layers("int4_g32")), None, CAPABILITIES)
    assert layer_schemes(choice) == {"int4_g32"}
    assert head_scheme(choice) == "plain"
    assert not choice.notes


def test_integers_without_a_kernel_are_dequantized_and_announced() -> None:
    spec = spec_of()
    files = stored_as(spec, lambda name: "int4_g32" if "mlp" in name else "int8" if "proj" in name else None)
    choice = choose_schemes(spec, files, None, EIGHT_BITS)
    assert layer_schemes(choice) == {"plain", "int8"}
    (note,) = choice.notes
    assert "dequantized while loading: 6 weights stored as int4_g32 (0.0 million elements): the device has no" in note
    with pytest.raises(BackendError, match=r"--strict-device(.|\n)*int4_g32"):
        choose_schemes(spec, files, None, EIGHT_BITS, strict=True)


@pytest.mark.parametrize("linears", ["int8", None])
def test_a_table_in_integers_that_no_linear_shares_is_announced(linears: str | None) -> None:
    spec = spec_of()
    files = stored_as(spec, lambda name: linears if "proj" in name else "int8_g32" if "embed" in name else None)
    choice = choose_schemes(spec, files, None, CAPABILITIES)
    assert layer_schemes(choice) == {linears or "plain"}
    (note,) = choice.notes
    assert "1 weight stored as int8_g32 (" in note
    with pytest.raises(BackendError, match=r"--strict-device(.|\n)*1 weight stored as int8_g32"):
        choose_schemes(spec, files, None, CAPABILITIES, strict=True)


def test_a_router_in_integers_is_announced() -> None:
    spec = spec_of(architectures=["MixtralForCausalLM"], model_type="mixtral", num_local_experts=4)
    files = Files({}, {"model.layers.0.block_sparse_moe.gate.weight": random_matrix(4, SHAPE["hidden_size"], "int8")})
    (note,) = choose_schemes(spec, files, None, CAPABILITIES).notes
    assert "1 weight stored as int8 (" in note


@dataclass
class Scattered(Files):
    """Files whose reader gives up the integers of one matrix."""

    @property
    def dequantized(self) -> dict[str, str]:
        return {"model.layers.0.mlp.up_proj.weight": "its groups lie scattered"}


def test_integers_that_the_reader_gives_up_are_announced() -> None:
    spec = spec_of()
    files = stored_as(spec, in_layers("int8"))
    name = "model.layers.0.mlp.up_proj.weight"
    scattered = Scattered(
        {**files.plain, name: files.tensor(name)},
        {key: matrix for key, matrix in files.matrices.items() if key != name},
    )
    (note,) = choose_schemes(spec, scattered, None, CAPABILITIES).notes
    assert note.startswith("dequantized while loading: 1 weight stored as integers (")
    assert note.endswith("its groups lie scattered")
    with pytest.raises(BackendError, match=r"--strict-device(.|\n)*its groups lie scattered"):
        choose_schemes(spec, scattered, None, CAPABILITIES, strict=True)


def test_a_quantized_checkpoint_is_not_quantized_again() -> None:
    spec = replace(spec_of(), quantization_config={"quant_method": "gptq"})
    files = stored_as(spec, in_layers("int4_g32"))
    for same in (None, "gptq", "int4_g32"):
        assert layer_schemes(choose_schemes(spec, files, same, CAPABILITIES)) == {"int4_g32"}
    for other in ("int8", "int4", "awq"):
        with pytest.raises(ConfigError, match=r"already quantized\n.*it holds gptq: int4_g32"):
            choose_schemes(spec, files, other, CAPABILITIES)


def test_routers_stay_plain() -> None:
    spec = spec_of(architectures=["MixtralForCausalLM"], model_type="mixtral", num_local_experts=4)
    weights = choose_schemes(spec, None, "int8", CAPABILITIES).model.layers[0].graph.weights
    assert weights["mlp.gate.weight"].scheme == "plain"
    assert weights["mlp.experts.down_proj"].scheme == "int8"


def test_the_option_is_a_name() -> None:
    with pytest.raises(ConfigError, match="quantization=4"):
        EngineConfig(quantization=4)  # type: ignore[arg-type]


@pytest.mark.parametrize("device", ["reference", "cpu"])
def test_a_quantized_model_answers(device: str, caplog: pytest.LogCaptureFixture) -> None:
    greedy = SamplingParams(temperature=0, max_tokens=4)
    with caplog.at_level(logging.INFO, "quire"), LLM("demo", device=device, quantization="int8") as llm:
        assert len(llm.generate("A KV cache is", greedy)[0].outputs[0].token_ids) == 4
    assert "weights: int8 (" in caplog.text


def test_random_weights_are_quantized_too(tmp_path: Path) -> None:
    with LLM("demo", device="cpu", quantization="int4", load_format="dummy") as llm:
        memory = llm.engine.loaded.memory.bytes_by_purpose["weights"]
    with LLM("demo", device="cpu", load_format="dummy", dtype="float32") as llm:
        assert memory < 0.5 * llm.engine.loaded.memory.bytes_by_purpose["weights"]
