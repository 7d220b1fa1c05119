"""Loading an engine: what is shown on the way."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import tqdm

from quire.device.graph_executor import GraphExecutor
from quire.engine import build, executor_start
from quire.engine.config import EngineConfig
from quire.errors import BackendError, ModelError
from quire.testing import fake_device
from quire.weights import checkpoint


@pytest.mark.parametrize(
    ("terminal", "from_bytes", "shown"), [(True, 1, True), (True, 2**28, False), (False, 1, False)]
)
def test_the_weights_of_a_large_checkpoint_have_a_progress_bar(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, terminal: bool, from_bytes: int, shown: bool
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    monkeypatch.setattr(executor_start, "PROGRESS_FROM_BYTES", from_bytes)
    build.load_engine(EngineConfig(device="reference", num_kv_blocks=2, max_model_len=16)).close()
    assert ("weights:" in capsys.readouterr().err) == shown


def test_the_progress_bar_ends_at_the_total(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[tuple[int, int]] = []

    class Bar(tqdm.tqdm):
        def close(self) -> None:
            if not self.disable:
                ended.append((self.n, self.total))
            super().close()

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(executor_start, "PROGRESS_FROM_BYTES", 1)
    monkeypatch.setattr(tqdm, "tqdm", Bar)
    build.load_engine(EngineConfig(device="reference", num_kv_blocks=2, max_model_len=16)).close()
    ((count, total),) = set(ended)
    assert count == total > 1_000_000


@pytest.mark.parametrize(("method", "doing"), [("load", "loading the weights"), ("allocate_kv", "allocating the KV")])
def test_what_a_device_raises_while_it_loads_is_the_devices_error(
    monkeypatch: pytest.MonkeyPatch, method: str, doing: str
) -> None:
    def broken(*arguments: object) -> None:
        raise ZeroDivisionError("in a kernel")

    monkeypatch.setattr(GraphExecutor, method, broken)
    with pytest.raises(BackendError, match=f"device reference failed while {doing}") as failure:
        build.load_engine(EngineConfig(device="reference", num_kv_blocks=2, max_model_len=16))
    assert failure.value.because == "ZeroDivisionError: in a kernel"


def test_what_a_file_raises_while_a_device_reads_it_is_the_models_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> None:
        raise ZeroDivisionError("in a tensor")

    monkeypatch.setattr(checkpoint, "resolve", broken)
    with pytest.raises(ModelError, match=r": weight .* cannot be read"):
        build.load_engine(EngineConfig(device="reference", num_kv_blocks=2, max_model_len=16))


def test_a_missing_op_is_named_before_any_weight_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fake_device.fake_capabilities()
    poorer = replace(whole, ops=frozenset({"cache_write", "linear"}))
    monkeypatch.setattr(fake_device, "fake_capabilities", lambda async_depth: poorer)
    monkeypatch.setattr(fake_device.FakeExecutor, "load", None)
    with pytest.raises(BackendError, match=r"fake does not implement paged_attention \(needed by model\.layers\.0 "):
        build.load_engine(EngineConfig(device="fake", load_format="dummy"))
    with pytest.raises(BackendError, match=r"embedding \(needed by model\), gated_activation"):
        build.load_engine(EngineConfig(device="fake", load_format="dummy", strict_device=True))
