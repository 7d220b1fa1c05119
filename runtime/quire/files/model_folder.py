"""Which files belong to a model's folder: those that lie in it.

Names in an index and symbolic links are written by whoever made the model, and may not lead elsewhere. The folder
itself may be a link: its user chose it. One layout has links by design, the hub client's cache: files of
`models--ORG--NAME/snapshots/REVISION/` are links into `models--ORG--NAME/blobs/`.
"""

from __future__ import annotations

from pathlib import Path

from quire.errors import ModelError


def file_of(folder: Path, name: str) -> Path:
    """The file `name` of a model's folder, whether it is there or not.

    Raises ModelError for a name or a symbolic link that leads out of the folder.
    """
    path = folder / name
    try:
        target, roots = path.resolve(), _roots(folder.resolve())
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: links that lead in a circle
        raise ModelError(
            f"{str(path)[:300]} cannot be read", because=str(error)[:300], hint="downloading the model again"
        ) from error
    if not any(target.is_relative_to(root) for root in roots):
        raise ModelError(
            f"{str(path)[:300]} leads out of the model's folder",
            because=f"to {str(target)[:300]}",
            hint="a copy of the file in the folder; or a link to the whole folder",
        )
    return path


def optional_file_of(folder: Path, name: str) -> Path | None:
    """As `file_of`; None when there is no such file."""
    path = file_of(folder, name)
    return path if path.exists() else None


def _roots(folder: Path) -> tuple[Path, ...]:
    """Where files of a folder may lie; its path has no links. It may be a folder inside a snapshot."""
    for above in folder.parents:
        if above.name == "snapshots" and above.parent.name.startswith("models--"):
            return (folder, above.parent / "blobs")
    return (folder,)
