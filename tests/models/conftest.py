"""One folder of tiny checkpoints per session; each is made when first asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.models.checkpoints import save_checkpoint

torch.set_num_threads(1)  # models this small gain nothing by more, and on a busy machine threads wait for each other


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """checkpoint(case) -> its folder; not to be written to."""
    root = tmp_path_factory.mktemp("checkpoints")

    def folder_of(case: str) -> Path:
        folder = root / case
        if not folder.exists():
            save_checkpoint(case, folder)
        return folder

    return folder_of
