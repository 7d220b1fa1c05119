"""Loading an engine: what is shown on the way."""

from __future__ import annotations

import sys

import pytest
import tqdm

from quire.engine import build
from quire.engine.config import EngineConfig


@pytest.mark.parametrize(
    ("terminal", "from_bytes", "shown"), [(True, 1, True), (True, 2**28, False), (False, 1, False)]
)
def test_the_weights_of_a_large_checkpoint_have_a_progress_bar(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, terminal: bool, from_bytes: int, shown: bool
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    monkeypatch.setattr(build, "PROGRESS_FROM_BYTES", from_bytes)
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
    monkeypatch.setattr(build, "PROGRESS_FROM_BYTES", 1)
    monkeypatch.setattr(tqdm, "tqdm", Bar)
    build.load_engine(EngineConfig(device="reference", num_kv_blocks=2, max_model_len=16)).close()
    (count, total), = set(ended)
    assert count == total > 1_000_000
