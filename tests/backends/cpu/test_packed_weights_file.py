"""packed_weights: a second start maps what the first one packed; whatever does not fit is packed anew, never used."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import stat
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quire.errors import ConfigError
from quire.graph.ir import Value
from quire.graph.shapes import T, shape_of
from tests.backends.cpu.devices import (
    OPTIONS,
    Body,
    NormalWeights,
    OneNode,
    cpu_plan,
    executor_of,
    one_node_model,
)
from tests.device.conftest import Driver, Line, RandomWeights


class FileWeights(RandomWeights):
    """Random weights that can be recognised."""

    fingerprint = "one"


class FileNormalWeights(NormalWeights):
    """Those of a model of one node, recognised too."""

    fingerprint = "normal"


def alibi_attention(max_bias: float) -> Body:
    """Attention of 4 heads of 16, whose slopes are a constant of the plan."""

    def body(n: OneNode, x: Value) -> Value:
        parts = zip(n.t.split(x, sizes=shape_of(64, 32, 32)), (4, 2, 2), strict=True)
        q, k, v = (n.t.reshape(part, shape=shape_of(T, heads, 16)) for part, heads in parts)
        n.cache = n.t.cache_write(n.cache, k, v)
        return n.t.paged_attention(q, n.cache, scale=0.25, alibi=max_bias)

    return body


def start(folder: Path, fingerprint: str = "one", **changes: Any) -> tuple[np.ndarray, int]:
    """Logits of a prompt, and how many weights were read."""
    plan = cpu_plan(options={**OPTIONS, "packed_weights": str(folder)}, **changes)
    weights = FileWeights(plan.model)
    weights.fingerprint = fingerprint
    driver = Driver(executor_of("cpu", plan, weights))
    line = Line([5, 6, 7], {"full": [0], "sliding": [1]})
    driver.step([(line, 3)])
    return driver.logits_of(line), len(weights.reads)


@pytest.fixture(autouse=True)
def user_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where the key is."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "quire"


def packed_files(folder: Path) -> list[Path]:
    """Without their signatures; there is nothing else."""
    found = sorted(folder.iterdir())
    assert {path.suffix for path in found} <= {".quire-packed", ".signature"}
    return [path for path in found if path.suffix == ".quire-packed"]


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_second_start_reads_nothing_and_computes_the_same(tmp_path: Path) -> None:
    first, reads = start(tmp_path / "new" / "folder")
    second, again = start(tmp_path / "new" / "folder")
    assert reads > 0
    assert again == 0
    np.testing.assert_array_equal(first, second)
    assert [path.suffix for path in packed_files(tmp_path / "new" / "folder")] == [".quire-packed"]


def test_other_weights_and_other_formats_have_files_of_their_own(tmp_path: Path) -> None:
    start(tmp_path)
    for count, changes in enumerate(({"fingerprint": "two"}, {"weight_dtype": "bfloat16"}), start=2):
        _, reads = start(tmp_path, **changes)
        assert reads > 0
        assert len(packed_files(tmp_path)) == count
    _, reads = start(tmp_path, weight_dtype="bfloat16")
    assert reads == 0


@pytest.mark.parametrize("damage", ["flipped", "short", "emptied", "foreign"])
def test_damaged_files_are_announced_and_packed_anew(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    first, _ = start(tmp_path)
    (path,) = packed_files(tmp_path)
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        data[5000] ^= 4
    path.write_bytes({"flipped": data, "short": data[: len(data) // 2], "emptied": b"", "foreign": b"x" * 9000}[damage])
    with caplog.at_level(logging.WARNING, "quire"):
        second, reads = start(tmp_path)
    assert reads > 0
    assert str(path) in caplog.text
    np.testing.assert_array_equal(first, second)
    assert start(tmp_path)[1] == 0


def test_files_are_their_owners_alone(tmp_path: Path, user_cache: Path) -> None:
    folder = tmp_path / "packed"
    before = os.umask(0)
    try:
        start(folder)
    finally:
        os.umask(before)
    assert (mode_of(folder), mode_of(user_cache)) == (0o700, 0o700)
    assert {mode_of(path) for path in [*folder.iterdir(), *user_cache.iterdir()]} == {0o600}


def replaced_by_a_link(path: Path) -> None:
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")


def forged(path: Path) -> None:
    """Right in itself: written by Quire under another key."""
    key = Path(os.environ["XDG_CACHE_HOME"]) / "quire" / "packed.key"
    key.write_bytes(b"x" * 32)


def swapped(path: Path) -> None:
    """A signed file under the name of another one."""
    start(path.parent, fingerprint="two")
    (other,) = (found for found in packed_files(path.parent) if found != path)
    for suffix in (".quire-packed", ".signature"):
        shutil.copy(other.with_suffix(suffix), path.with_suffix(suffix))


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda path: path.chmod(0o644), "has mode 0644: others may open it"),
        (lambda path: path.chmod(0o620), "has mode 0620"),
        (lambda path: path.parent.chmod(0o777), "has mode 0777: others may write it"),
        (replaced_by_a_link, "cannot be opened"),
        (forged, "not of this content and user"),
        (swapped, "not of this content and user"),
        (lambda path: path.with_suffix(".signature").unlink(), "No such file"),
        (lambda path: path.with_suffix(".signature").write_bytes(b""), "not of this content and user"),
    ],
)
def test_what_cannot_be_trusted_is_not_used_and_said_once(
    tmp_path: Path, harm: Any, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "packed"
    first, _ = start(folder)
    (path,) = packed_files(folder)
    harm(path)
    with caplog.at_level(logging.WARNING, "quire"):
        second, reads = start(folder)
    assert reads > 0
    assert reason in caplog.text
    assert caplog.text.count("packed anew") == 1
    np.testing.assert_array_equal(first, second)


def test_a_file_of_another_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    start(tmp_path / "packed")
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with caplog.at_level(logging.WARNING, "quire"):
        _, reads = start(tmp_path / "packed")
    assert reads > 0
    assert f"belongs to user {os.getuid()}" in caplog.text


def test_a_file_cut_short_while_it_is_used_changes_nothing(tmp_path: Path) -> None:
    start(tmp_path / "packed")
    (path,) = packed_files(tmp_path / "packed")
    plan = cpu_plan(options={**OPTIONS, "packed_weights": str(tmp_path / "packed")})
    weights = FileWeights(plan.model)
    driver = Driver(executor_of("cpu", plan, weights))
    assert not weights.reads
    os.truncate(path, 0)
    line = Line([5, 6, 7], {"full": [0], "sliding": [1]})
    driver.step([(line, 3)])
    assert np.isfinite(driver.logits_of(line)).all()


def test_a_full_disk_costs_the_file_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with caplog.at_level(logging.WARNING, "quire"):
        logits, reads = start(tmp_path)
    assert reads > 0
    assert np.isfinite(logits).all()
    assert "packed weights were not kept: [Errno 28] No space left on device" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_concurrent_starts_leave_one_good_file(tmp_path: Path) -> None:
    results: list[np.ndarray] = []
    threads = [threading.Thread(target=lambda: results.append(start(tmp_path)[0])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert all(np.array_equal(result, results[0]) for result in results)
    assert len(packed_files(tmp_path)) == 1
    assert start(tmp_path)[1] == 0


def test_plans_that_differ_in_a_constant_have_files_of_their_own(tmp_path: Path) -> None:
    options = {**OPTIONS, "packed_weights": str(tmp_path)}
    logits = []
    for number, max_bias in enumerate((2.0, 8.0, 2.0)):
        plan = cpu_plan(model=one_node_model(alibi_attention(max_bias), 128), options=options)
        weights = FileNormalWeights(plan.model)
        driver = Driver(executor_of("cpu", plan, weights))
        line = Line([5, 6, 7], {"full": [0]})
        driver.step([(line, 3)])
        logits.append(driver.logits_of(line))
        assert len(packed_files(tmp_path)) == min(number + 1, 2)
    assert not np.array_equal(logits[0], logits[1])
    np.testing.assert_array_equal(logits[0], logits[2])


def test_weights_that_cannot_be_recognised_are_not_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "quire"):
        start(tmp_path, fingerprint="")
    assert "not kept" in caplog.text
    assert packed_files(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="packed_weights"):
        start(tmp_path / "file")
    with pytest.raises(ConfigError, match="packed_weights="):
        executor_of("cpu", cpu_plan(options={"packed_weights": ""}))
