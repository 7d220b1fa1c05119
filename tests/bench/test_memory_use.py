from __future__ import annotations

import mmap
import sys
from pathlib import Path

import numpy as np
import pytest

from quire.bench import memory
from quire.bench.memory import memory_use

MIB = 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="private and mapped memory are told apart on Linux only")
def test_private_and_mapped_memory_are_told_apart(tmp_path: Path) -> None:
    file = tmp_path / "pages"
    file.write_bytes(bytes(64 * MIB))
    before = memory_use()
    held = np.ones(64 * MIB, np.uint8)
    private = memory_use()
    assert held.nbytes == 64 * MIB
    assert private.private_bytes - before.private_bytes > 60 * MIB
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert sum(mapped[i] for i in range(0, len(mapped), 4096)) == 0
        after = memory_use()
    assert after.mapped_bytes - private.mapped_bytes > 60 * MIB
    assert after.private_bytes - private.private_bytes < 16 * MIB
    assert after.peak_bytes >= after.private_bytes + after.mapped_bytes - MIB


def test_without_proc_only_the_peak_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "STATUS", Path("/nowhere/status"))
    use = memory_use()
    assert use.peak_bytes > 10 * MIB
    assert use.private_bytes is None
    assert use.mapped_bytes is None
