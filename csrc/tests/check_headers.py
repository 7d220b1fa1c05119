"""Fails when a header of the kernels does not compile alone.

    check_headers.py BUILD

Takes the commands of the tables from BUILD/compile_commands.json. Each header that a table includes is compiled by
itself, for syntax only, with the flags of the first table that includes it.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

KERNELS = Path(__file__).resolve().parent.parent / "kernels"


def tables(build: Path) -> list[tuple[str, list[str], Path]]:
    """The table's file, its compiler with flags, and the folder to run in."""
    found = []
    for entry in json.loads((build / "compile_commands.json").read_text()):
        source = Path(entry["directory"], entry["file"]).resolve()
        if KERNELS not in source.parents or source.name != "table.cpp":
            continue
        command = shlex.split(entry["command"])
        output = command.index("-o")
        flags = [argument for argument in command[:output] + command[output + 2 :] if argument != "-c"]
        flags.remove(entry["file"])
        found.append((str(source), flags, Path(entry["directory"])))
    return sorted(found, key=lambda table: ("portable" not in table[0], table[0]))


def headers(source: str, flags: list[str], folder: Path) -> list[Path]:
    """The headers under csrc/kernels that a table includes."""
    run = subprocess.run([*flags, "-MM", source], cwd=folder, check=True, capture_output=True, text=True)
    paths = [Path(folder, word).resolve() for word in run.stdout.replace("\\\n", " ").split() if word.endswith(".h")]
    return [path for path in paths if KERNELS in path.parents]


def errors(job: tuple[Path, list[str], Path]) -> str:
    """What the compiler says of a header alone; empty when it compiles."""
    header, flags, folder = job
    run = subprocess.run(
        [*flags, "-fsyntax-only", "-w", "-x", "c++", "-include", str(header), os.devnull],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    return f"{header.relative_to(KERNELS)} does not compile alone:\n{run.stderr}" if run.returncode else ""


def main() -> int:
    jobs: dict[Path, tuple[Path, list[str], Path]] = {}
    for source, flags, folder in tables(Path(sys.argv[1])):
        for header in headers(source, flags, folder):
            jobs.setdefault(header, (header, flags, folder))
    with ThreadPoolExecutor(os.cpu_count()) as workers:
        failures = [text for text in workers.map(errors, jobs.values()) if text]
    print("\n".join(failures), end="")
    print(f"{len(jobs)} headers, {len(failures)} do not stand alone")
    return 1 if failures or not jobs else 0


if __name__ == "__main__":
    sys.exit(main())
