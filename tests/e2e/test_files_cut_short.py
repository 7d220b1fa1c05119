"""A model's file that is cut short: while it loads, a ModelError; afterwards, nothing. The process lives."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from quire import LLM, SamplingParams
from quire.errors import ModelError
from quire.graph.ir import Weight
from quire.weights import CheckpointWeights
from quire.weights.hub import resolve_model

PARAMS = SamplingParams(max_tokens=8, temperature=0.0)
DEVICES = ["cpu", "reference", "torch"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(resolve_model("demo"), tmp_path / "model"))


def load(folder: Path, device: str) -> LLM:
    return LLM(str(folder), device=device, max_model_len=128, num_kv_blocks=16)


@pytest.mark.parametrize("device", DEVICES)
def test_while_it_loads(folder: Path, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = list[str]()

    def slow(method: str) -> Callable[[CheckpointWeights, Weight], object]:
        wrapped = getattr(CheckpointWeights, method)

        def call(self: CheckpointWeights, weight: Weight) -> object:
            reads.append(weight.name)
            if len(reads) == 4:
                os.truncate(folder / "model.safetensors", 20_000)
            return wrapped(self, weight)

        return call

    for method in ("read", "pieces"):  # by which of them a device loads is its own choice
        monkeypatch.setattr(CheckpointWeights, method, slow(method))
    with pytest.raises(ModelError, match=r"model\.safetensors was cut short while it was read"):
        load(folder, device)
    assert len(reads) >= 4


@pytest.mark.parametrize("device", DEVICES)
def test_after_it_was_loaded(folder: Path, device: str) -> None:
    with load(folder, device) as llm:
        before = llm.generate("Once upon a time", PARAMS)[0].outputs[0].token_ids
        os.truncate(folder / "model.safetensors", 0)
        assert llm.generate("Once upon a time", PARAMS)[0].outputs[0].token_ids == before
