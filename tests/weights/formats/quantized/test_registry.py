"""Which reader opens the files that config.json says are quantized."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quire.errors import InternalError, ModelError
from quire.models import build_model_from_config
from quire.weights import open_checkpoint
from quire.weights.formats.quantized.registry import OPENERS, opener_of
from quire.weights.formats.safetensors.checkpoint import SafetensorsCheckpoint
from quire.weights.schemes import PLAIN
from tests.weights.test_checkpoint import SHAPE
from tests.weights.test_quantized_expressions import Files, files_of


def test_a_quantization_config_picks_the_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.numpy import save_file

    save_file({"a": np.ones(3, np.float32)}, tmp_path / "model.safetensors")
    plain = open_checkpoint(tmp_path)
    assert isinstance(plain, SafetensorsCheckpoint)
    assert (plain.shape("a"), plain.dtype("a"), plain.scheme("a")) == ((3,), np.dtype(np.float32), PLAIN)
    with pytest.raises(InternalError):
        plain.quantized("a")
    seen: list[Any] = []

    def opener(folder: Path, config: Any, files: SafetensorsCheckpoint) -> Files:
        seen.append((folder, config, list(files.names)))
        return files_of("b")

    monkeypatch.setitem(OPENERS, "made_up", opener)
    config = '{"quantization_config": {"quant_method": "made_up", "bits": 4}}'
    (tmp_path / "config.json").write_text(config)
    assert list(open_checkpoint(tmp_path).names) == ["b"]
    assert seen == [(tmp_path, {"quant_method": "made_up", "bits": 4}, ["a"])]


def test_unknown_formats_are_refused_with_those_that_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPENERS, "made_up", lambda folder, config, files: files)
    with pytest.raises(ModelError, match=r"quant_method='quip'(.|\n)*made_up(.|\n)*--quantization"):
        opener_of({"quant_method": "quip"})
    with pytest.raises(ModelError, match="quant_method=None"):
        opener_of({})
    config = {**SHAPE, "architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    with pytest.raises(ModelError, match="quip"):
        build_model_from_config({**config, "quantization_config": {"quant_method": "quip"}})
    spec = build_model_from_config({**config, "quantization_config": {"quant_method": "made_up", "bits": 4}})
    assert spec.quantization_config == {"quant_method": "made_up", "bits": 4}
    assert build_model_from_config({**config, "quantization_config": None}).quantization_config is None
