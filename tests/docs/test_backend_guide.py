"""The guide for authors of backends does what it says: its Python blocks run in order, in a fresh process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
GUIDE = DOCS / "backend-guide.md"


def blocks(language: str) -> list[tuple[int, str]]:
    """(line number, text) of every block of a language."""
    text = GUIDE.read_text(encoding="utf-8")
    found = re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(text[: match.start()].count("\n") + 2, match[1]) for match in found]


def install(folder: Path) -> list[tuple[int, str]]:
    """Writes the blocks that name a file, and the metadata of the package; returns the others."""
    project = tomllib.loads(blocks("toml")[0][1])["project"]
    metadata = folder / f"{project['name']}-{project['version']}.dist-info"
    metadata.mkdir()
    metadata.joinpath("METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    entries = [f"{name} = {value}" for name, value in project["entry-points"]["quire.backends"].items()]
    metadata.joinpath("entry_points.txt").write_text("\n".join(["[quire.backends]", *entries]) + "\n")
    rest = []
    for line, text in blocks("python"):
        name = re.match(r"# (\w+\.py)\n", text)
        if name:
            folder.joinpath(name[1]).write_text(text)
        else:
            rest.append((line, text))
    return rest


def execute(line: int, text: str) -> str:
    """Code that runs a block in `names`, under the page's name and line numbers."""
    return f"exec(compile({chr(10) * (line - 1) + text!r}, {str(GUIDE)!r}, 'exec'), names)"


def test_every_block_runs(tmp_path: Path) -> None:
    scripts = install(tmp_path)
    assert len(scripts) >= 8
    runner = "".join(f"{execute(line, text)}\n" for line, text in scripts)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]),
        "OPENBLAS_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    ended = subprocess.run(
        [sys.executable, "-c", f"names = {{'__name__': 'guide'}}\n{runner}print('all blocks ran')"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.endswith("all blocks ran\n")


def test_a_block_that_fails_is_named_by_its_line(tmp_path: Path) -> None:
    """So that the test above cannot pass by running nothing."""
    ended = subprocess.run(
        [sys.executable, "-c", f"names = {{}}\n{execute(7, 'assert False')}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert "backend-guide.md" in ended.stderr
    assert "line 7" in ended.stderr


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: str(page.relative_to(DOCS)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    prose = re.sub(r"^```.*?^```$|`[^`\n]+`", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", prose):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
