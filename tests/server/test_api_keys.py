"""Keys of a file, of the environment and of the command line; what others can read is said."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from quire.errors import ConfigError
from quire.server.api_keys import api_keys


def test_all_sources_together(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# comment\n\n first \r\nsecond\nschlüssel\n")
    file.chmod(0o600)
    keys = api_keys(["second", "given"], str(file), {"QUIRE_API_KEY": "environment"})
    assert keys == ("second", "given", "first", "schlüssel", "environment")
    assert api_keys([], None, {}) == ()


def test_what_others_can_read_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "keys"
    file.write_text("secret-1\n")
    with caplog.at_level(logging.WARNING, "quire"):
        file.chmod(0o600)
        api_keys([], str(file), {"QUIRE_API_KEY": "secret-2"})
        assert caplog.text == ""
        file.chmod(0o640)
        api_keys(["secret-3"], str(file), {})
    assert "list of processes" in caplog.text
    assert "mode 640" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize("content", [b"", b"# nothing\n\n", b"\xff\xfe", b"a\x01b\n", b"k" * (2 << 20)])
def test_files_without_good_keys(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "keys").write_bytes(content)
    with pytest.raises(ConfigError, match="--api-key-file"):
        api_keys([], str(tmp_path / "keys"), {})


def test_no_file_and_empty_keys(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--api-key-file"):
        api_keys([], str(tmp_path / "absent"), {})
    with pytest.raises(ConfigError, match="empty key"):
        api_keys(["  "], None, {})
    with pytest.raises(ConfigError, match="QUIRE_API_KEY"):
        api_keys([], None, {"QUIRE_API_KEY": ""})
