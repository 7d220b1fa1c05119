"""The engine over JAX: overlapped steps, tensor parallelism, and rows that only the host can draw."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from quire import LLM, SamplingParams
from tests.models.checkpoints import save_checkpoint

PROMPTS = [[3, 4, 5, 6, 7], [9, 8, 7], [11] * 40, [5, 6, 5, 6]]
SAMPLING = {
    "greedy": SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True),
    "filtered": SamplingParams(temperature=0.8, top_k=20, top_p=0.9, seed=7, n=2, max_tokens=8, ignore_eos=True),
    "by the host": SamplingParams(temperature=0.8, repetition_penalty=1.3, seed=7, max_tokens=6, ignore_eos=True),
}


def outputs(folder: Path, device: str, names: Sequence[str], **changes: Any) -> dict[str, list[list[list[int]]]]:
    """Tokens of every prompt by kind of sampling; limits that fit one bucket, since each is compiled."""
    llm = LLM(
        model=str(folder),
        device=device,
        dtype="float32",
        max_num_seqs=6,
        max_num_batched_tokens=32,
        max_model_len=64,
        num_kv_blocks=64,
        **changes,
    )
    prompts = [{"prompt_token_ids": prompt} for prompt in PROMPTS]
    return {
        name: [[list(output.token_ids) for output in result.outputs] for result in llm.generate(prompts, params)]
        for name, params in SAMPLING.items()
        if name in names
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    save_checkpoint("qwen3", folder)
    return folder


def test_tokens_are_those_of_the_reference_device(folder: Path) -> None:
    names = ("filtered", "by the host")
    assert outputs(folder, "tpu", names, device_options={"platform": "cpu"}) == outputs(folder, "reference", names)


def test_tokens_over_two_ranks_are_those_of_the_reference_device(folder: Path) -> None:
    names = ("greedy",)
    found = outputs(folder, "tpu", names, device_options={"platform": "cpu"}, tensor_parallel_size=2)
    assert found == outputs(folder, "reference", names)
