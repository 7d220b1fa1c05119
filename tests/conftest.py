"""Fixtures that several folders share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.byte_model import save_byte_model


@pytest.fixture(scope="session")
def byte_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a model whose tokens are bytes; not to be written to."""
    return save_byte_model(tmp_path_factory.mktemp("byte_model"))
