"""Ahead-of-time compilation, with no GPU: one NVIDIA and one AMD target here, all of them by the command."""

from __future__ import annotations

import json

import pytest

from quire_torch import aot, compiled_kernel
from quire_torch.compiled_kernel import CHIPS, Chip


def test_decode_attention_fits_an_nvidia_and_an_amd_chip(capsys: pytest.CaptureFixture[str]) -> None:
    assert aot.main(["--target", "sm_90", "--target", "gfx942", "--kernel", "d64 g4 decode", "--json"]) == 0
    nvidia, amd = json.loads(capsys.readouterr().out)["kernels"]
    assert (nvidia["chip"], amd["chip"]) == ("sm_90", "gfx942")
    assert nvidia["fits"]
    assert amd["fits"]
    assert 0 < int(nvidia["registers"]) <= 255
    assert amd["registers"].endswith(" s")
    assert any(name.startswith("mma.sync") for name in nvidia["matrix_instructions"])
    assert any(name.startswith("v_mfma") for name in amd["matrix_instructions"])


def test_too_much_shared_memory_is_an_error_and_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(CHIPS, "sm_80", Chip("cuda", 80, 32, shared_limit_bytes=10_000))
    assert aot.main(["--target", "sm_80", "--kernel", "d64 g4 decode", "--markdown"]) == 1
    captured = capsys.readouterr()
    assert captured.out.startswith("| kernel | target |")
    assert "does not fit sm_80" in captured.err
    assert "of 10000 bytes" in captured.err


def test_spills_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two warps share what eight are meant to: the registers cannot suffice."""
    config = compiled_kernel.launch_config

    def too_few_warps(*args: int, **kwargs: int) -> object:
        found = config(*args, **kwargs)  # type: ignore[arg-type]
        return type(found)(found.block_m, found.block_n, 2, found.num_stages)

    monkeypatch.setattr(compiled_kernel, "launch_config", too_few_warps)
    assert aot.main(["--target", "sm_80", "--kernel", "bf16 d256 g4 prefill"]) == 1


def test_an_unknown_kernel_is_refused() -> None:
    with pytest.raises(SystemExit):
        aot.main(["--kernel", "nothing"])
