"""A model's files are regular files of bounded size that hold UTF-8; anything else is named and nothing waits."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from quire.errors import ModelError
from quire.files import open_regular, read_bytes, read_text


def test_what_is_no_file_is_named_and_nobody_waits_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    for name, because in (
        ("pipe", "a named pipe"),
        ("link", "a device"),
        (".", "a folder"),
        ("absent", "No such file"),
        ("circle", "symbolic links"),
        ("n\0l", "null"),
    ):
        with pytest.raises(ModelError) as refusal:
            open_regular(tmp_path / name)
        assert because in refusal.value.because


def test_a_sparse_file_is_not_read_whole(tmp_path: Path) -> None:
    with (tmp_path / "big").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ModelError, match=str(2**40)):
        read_bytes(tmp_path / "big")


def test_the_first_byte_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes("grün".encode("latin-1"))
    with pytest.raises(ModelError, match="byte 2 is 0xfc"):
        read_text(tmp_path / "text")
