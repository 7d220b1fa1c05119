"""The control groups (cgroups) of this process: which folders tell their limits, under version 1, 2, or both.

A container, a systemd unit or a pod is a group. /proc/self/cgroup names the process's group in each hierarchy,
/proc/self/mountinfo where a hierarchy is mounted and which of its folders one sees there. The limits of every
group above count as well. Source: cgroups(7), Documentation/admin-guide/cgroup-v1 and cgroup-v2 of Linux.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

SYSTEM_ROOT = Path("/")
"""Where the files of the system begin; tests put a tree of their own in its place."""


def group_folders(controller: str, root: Path) -> tuple[Path, ...]:
    """Folders of the process's groups that may limit `controller` ("cpu", "memory", "cpuset"), the own group's first.

    Those of version 1 come with those of version 2, where a system has both; a folder that has no file of the
    controller limits nothing. Empty where there are no control groups.
    """
    hierarchies = _hierarchies(root)
    found: list[Path] = []
    for mount in _mounts(root):
        for controllers, group in hierarchies:
            if mount.holds(controllers, controller):
                found += [folder for folder in mount.folders(group) if folder not in found]
    return tuple(found)


def read_number(path: Path) -> int | None:
    """The whole number in a file of a control group; None where there is none ("max", no such file)."""
    text = read_text(path)
    return int(text) if text.isdecimal() else None


def read_text(path: Path) -> str:
    """A file's text without white space around it; "" where it cannot be read."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


class _Mount:
    """One mounted hierarchy: which folder of it is seen where."""

    def __init__(self, root: Path, line: str) -> None:
        before, _, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")
        self._version = {"cgroup": 1, "cgroup2": 2}.get(kind[0], 0)
        self._options = kind[2].split(",") if len(kind) > 2 else []
        self._seen = PurePosixPath(_unescaped(fields[3])) if len(fields) > 4 else PurePosixPath("/")
        self._point = root / _unescaped(fields[4]).lstrip("/") if len(fields) > 4 else root

    def holds(self, controllers: list[str], controller: str) -> bool:
        """Whether it is the hierarchy of a line of /proc/self/cgroup, and may limit the controller."""
        if self._version == 2:
            return controllers == [""]
        return self._version == 1 and controller in controllers and controller in self._options

    def folders(self, group: str) -> Iterator[Path]:
        """The group's folder and those above it, as far as they are seen here.

        A path that leads out of what is mounted (a container that sees its host's names) leaves the mount itself,
        which is then the container's own group.
        """
        path = PurePosixPath(group)
        inside = path.relative_to(self._seen) if path.is_relative_to(self._seen) else PurePosixPath()
        if ".." in inside.parts:
            inside = PurePosixPath()
        for folder in (inside, *inside.parents) if inside.parts else (inside,):
            if (self._point / folder).is_dir():
                yield self._point / folder


def _hierarchies(root: Path) -> list[tuple[list[str], str]]:
    """(controllers, path of the process's group) of each hierarchy; version 2 has the controllers [""]."""
    lines = (line.split(":", 2) for line in read_text(root / "proc/self/cgroup").splitlines())
    return [(parts[1].split(","), parts[2]) for parts in lines if len(parts) == 3]


def _mounts(root: Path) -> list[_Mount]:
    lines = read_text(root / "proc/self/mountinfo").splitlines()
    return [_Mount(root, line) for line in lines if " - cgroup" in line]


def _unescaped(text: str) -> str:
    """mountinfo writes blanks and backslashes of paths as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)
