"""A KV cache that the system does not give: an error of the device, with its size."""

from __future__ import annotations

from typing import Any

import pytest

from quire.errors import BackendError
from quire.reference.device import ReferenceLibrary
from tests.backends.cpu.devices import cpu_plan, executor_of


def test_the_cpu_names_the_size() -> None:
    with pytest.raises(BackendError, match=r"the KV cache of \d+\.\d GiB does not fit into memory"):
        executor_of("cpu", cpu_plan(options={}), num_blocks=2**42)


def test_a_graph_executor_names_the_size(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(ReferenceLibrary, "create_cache", none_left)
    with pytest.raises(BackendError, match=r"KV blocks, \d+\.\d GiB\n.*MemoryError"):
        executor_of("reference", cpu_plan(options={}), num_blocks=2**42)
