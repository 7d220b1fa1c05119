"""Folders of sockets: short, private, and removed when nobody holds them."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from quire.child_process import python_command
from quire.engine.socket_folder import LOCK, MOST_PATH_BYTES, PREFIX, SocketFolder
from quire.errors import ConfigError

KILLED = """
import os, signal
from quire.engine.socket_folder import SocketFolder
print(SocketFolder().path, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A short TMPDIR of the test's own."""
    path = Path(subprocess.run(["mktemp", "-d", "/tmp/t.XXXX"], capture_output=True, text=True, check=True).stdout[:-1])
    monkeypatch.setenv("TMPDIR", str(path))
    yield path
    subprocess.run(["rm", "-r", path], check=True)


def test_it_is_the_users_own_and_goes_with_its_maker(root: Path) -> None:
    folder = SocketFolder()
    assert folder.path.parent == root
    assert folder.path.stat().st_mode & 0o777 == 0o700
    another = SocketFolder()
    assert another.path != folder.path
    another.close()
    folder.close()
    folder.close()
    assert not folder.path.exists()


def test_a_long_tmpdir_is_not_used(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = root / ("x" * 200)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    folder = SocketFolder()
    assert len(os.fsencode(folder.path / "requests")) <= MOST_PATH_BYTES
    folder.close()
    assert list(long.iterdir()) == []


def test_what_a_killed_server_left_goes_at_the_next_start(root: Path) -> None:
    command = [python_command("x")[0], "-P", "-c", KILLED]
    stale = Path(subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip())
    assert (stale.parent, stale.is_dir()) == (root, True)
    alive, being_made, old = SocketFolder(), root / f"{PREFIX}now", root / f"{PREFIX}old"
    assert not stale.exists()
    others = root / "quire-other"
    for folder in (being_made, old, others):
        folder.mkdir()
    os.utime(old, (time.time() - 7200,) * 2)
    outside = root / "outside"
    outside.mkdir()
    (outside / LOCK).touch()
    (root / f"{PREFIX}link").symlink_to(outside)
    SocketFolder().close()
    assert [path.exists() for path in (alive.path, being_made, old, others, outside / LOCK)] == [
        True,
        True,
        False,
        True,
        True,
    ]
    alive.close()


def test_no_folder_at_all_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.mkdtemp", full)
    with pytest.raises(ConfigError, match=r"no folder for the engine's sockets\n.*/tmp: No space left on device"):
        SocketFolder()
