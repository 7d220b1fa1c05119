"""The Triton kernel under its interpreter; in a process of its own, since that is chosen when triton is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from quire.device.batch import GroupBatch, StepBatch
from quire.errors import ConfigError
from quire_torch.options import TorchOptions

ROOT = Path(__file__).parents[3]


def test_the_interpreted_kernel_is_attention_in_plain_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.backends.torch.interpreted"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "22 cases agree" in done.stdout


def test_the_kernel_is_refused_where_nothing_can_compile_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ConfigError, match="TRITON_INTERPRET=1"):
        TorchOptions.parse({"attention": "triton"})
    assert TorchOptions.parse({}).attention == "torch"
    assert TorchOptions.parse({"device": "cuda:1"}).attention == "triton"
    assert TorchOptions.parse({"device": "cuda", "attention": "torch"}).attention == "torch"


@pytest.mark.parametrize("decode", [False, True])
def test_query_tiles_hold_every_row_of_their_kind_once(decode: bool) -> None:
    from quire_torch.triton_attention import query_tiles

    lens = [9, 1, 4, 1, 17, 8]
    batch = StepBatch(
        step=0,
        token_ids=np.zeros(sum(lens), np.int32),
        query_start_loc=np.cumsum([0, *lens]).astype(np.int32),
        num_computed=np.zeros(len(lens), np.int32),
        prev_row=np.full(len(lens), -1, np.int32),
        groups={"full": GroupBatch(np.zeros((len(lens), 1), np.int32))},
        logits_indices=np.empty(0, np.int32),
    )
    seqs, rows = query_tiles(batch, 4, decode=decode)
    covered = [
        (int(seq), row)
        for seq, first in zip(seqs, rows, strict=True)
        for row in range(first, min(first + 4, lens[seq]))
    ]
    assert covered == [(seq, row) for seq, n in enumerate(lens) if (n == 1) == decode for row in range(n)]
