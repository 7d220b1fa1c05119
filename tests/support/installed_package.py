"""A package installed beside Quire, as a stranger's is: in a fresh environment that sees the packages of this one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import quire


class InstalledPackage:
    """Installs the package of `source` (a folder with pyproject.toml) under `folder`; runs modules with it.

    Attributes:
        source: the copy that it was installed from.
    """

    def __init__(self, source: Path, folder: Path) -> None:
        venv.create(folder / "venv", with_pip=False, symlinks=True)
        self.folder = folder
        self.python = folder / "venv" / "bin" / "python"
        (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
        ours = {Path(path) for path in sys.path if path.endswith("site-packages")}
        ours.add(Path(quire.__file__).parents[1])
        lines = [f"import site; site.addsitedir({str(path)!r})\n" for path in sorted(ours)]
        site.joinpath("running.pth").write_text("".join(lines))
        built = shutil.ignore_patterns("__pycache__", "build", "*.egg-info")
        self.source = shutil.copytree(source, folder / "source", ignore=built)
        flags = ("--quiet", "--no-build-isolation", "--no-deps", "--disable-pip-version-check")
        self.run("pip", "install", *flags, str(self.source))

    def run(self, module: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """`python -m module`; with `check` it must succeed."""
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        ended = subprocess.run(
            [self.python, "-m", module, *arguments],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert ended.returncode == 0 or not check, ended.stderr + ended.stdout
        return ended

    def quire(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """The command line."""
        return self.run("quire.cli.main", *arguments, check=check)
