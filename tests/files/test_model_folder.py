"""Files of a model lie in its folder; the hub client's cache is the one layout whose links lead out of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from quire.errors import ModelError
from quire.files import file_of, open_regular


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model" / "inner").mkdir(parents=True)
    (tmp_path / "secret.json").write_text("{}")
    (tmp_path / "model" / "own.json").write_text("{}")
    return tmp_path / "model"


def test_files_and_links_inside_are_taken(folder: Path) -> None:
    (folder / "inner" / "link.json").symlink_to(folder / "own.json")
    (folder.parent / "by-link").symlink_to(folder)
    for name in ("own.json", "inner/link.json", "inner/../own.json", "absent.json"):
        assert file_of(folder, name) == folder / name
        assert file_of(folder.parent / "by-link", name).name == Path(name).name


@pytest.mark.parametrize(
    "name",
    [
        "../secret.json",
        "inner/../../secret.json",
        "/etc/passwd",
        "link.json",
        "far/passwd",
    ],
)
def test_what_leads_out_is_refused(folder: Path, name: str) -> None:
    (folder / "link.json").symlink_to("../secret.json")
    (folder / "far").symlink_to("/etc")
    with pytest.raises(ModelError, match="leads out of the model's folder"):
        file_of(folder, name)


@pytest.mark.parametrize("name", ["n\0l", "x" * 5000, "circle"])
def test_names_that_no_file_can_have_are_refused(folder: Path, name: str) -> None:
    (folder / "circle").symlink_to(folder / "circle")
    with pytest.raises(ModelError):
        open_regular(file_of(folder, name))


def test_snapshots_of_the_hub_link_to_their_blobs_and_nowhere_else(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--org--name" / "snapshots" / "abc"
    blobs = tmp_path / "models--org--name" / "blobs"
    for made in (snapshot, blobs, tmp_path / "models--org--other" / "blobs"):
        made.mkdir(parents=True)
    (snapshot / "config.json").symlink_to("../../blobs/123")
    (blobs / "123").write_text("{}")
    assert file_of(snapshot, "config.json").read_text() == "{}"
    (snapshot / "Q8_0").mkdir()
    (snapshot / "Q8_0" / "model-00002-of-00002.gguf").symlink_to("../../../blobs/123")
    assert file_of(snapshot / "Q8_0", "model-00002-of-00002.gguf").read_text() == "{}"
    (snapshot / "stolen.json").symlink_to("../../../models--org--other/blobs/123")
    with pytest.raises(ModelError, match="leads out"):
        file_of(snapshot, "stolen.json")
    (tmp_path / "plain" / "snapshots" / "abc").mkdir(parents=True)
    (tmp_path / "plain" / "blobs").mkdir()
    (tmp_path / "plain" / "snapshots" / "abc" / "config.json").symlink_to("../../blobs/123")
    with pytest.raises(ModelError, match="leads out"):
        file_of(tmp_path / "plain" / "snapshots" / "abc", "config.json")
