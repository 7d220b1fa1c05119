"""A model of a million positions takes the memory of those that are used, and answers the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from quire import LLM, SamplingParams
from quire.graph import rope

SHAPE = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 128,
    "vocab_size": 256,
    "rms_norm_eps": 1e-5,
    "torch_dtype": "bfloat16",
}

MEASURE = """
import sys
from quire import LLM, SamplingParams
def megabytes(field):
    return int(open("/proc/self/status").read().split(field + ":")[1].split()[0]) / 1024
llm = LLM(sys.argv[1], device=sys.argv[2], load_format="dummy", skip_tokenizer_init=True)
llm.generate([{"prompt_token_ids": [5, 6, 7]}], SamplingParams(max_tokens=3, ignore_eos=True))
print(megabytes("VmHWM"))
"""


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps({**SHAPE, "max_position_embeddings": 1_000_000}))
    return tmp_path


@pytest.mark.parametrize(("device", "most"), [("cpu", 250), ("reference", 250), ("torch", 550)])
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak of a process is read from /proc")
def test_a_million_positions_that_nobody_uses_cost_nothing(checkpoint: Path, device: str, most: int) -> None:
    """Megabytes at the peak; a table for every position alone took 512 and more, the reference's cache gigabytes."""
    ran = subprocess.run(
        [sys.executable, "-c", MEASURE, str(checkpoint), device],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert float(ran.stdout.split()[-1]) < most


@pytest.mark.parametrize("device", ["cpu", "reference", "torch"])
def test_answers_do_not_depend_on_how_tables_grow(
    checkpoint: Path, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = [{"prompt_token_ids": np.random.default_rng(3).integers(0, 256, 90).tolist()}]
    params = SamplingParams(max_tokens=60, ignore_eos=True, temperature=0.0, logprobs=2)
    answers = []
    for first_rows in (16, 8192):
        monkeypatch.setattr(rope, "FIRST_ROPE_ROWS", first_rows)
        with LLM(
            str(checkpoint),
            device=device,
            load_format="dummy",
            skip_tokenizer_init=True,
            max_num_batched_tokens=64,
            max_model_len=4096,
        ) as llm:
            answers.append(llm.generate(prompt, params)[0].outputs[0])
    assert answers[0].token_ids == answers[1].token_ids
    assert answers[0].logprobs == answers[1].logprobs
