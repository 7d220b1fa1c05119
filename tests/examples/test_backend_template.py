"""The backend template as a stranger would use it: installed as a package beside Quire, found, run, held to the kit."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.support.installed_package import InstalledPackage

TEMPLATE = Path(__file__).parents[2] / "examples" / "backend-template"
PROMPT = "What is a block table?"
DEVICES = ("template_ops", "template_step")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> InstalledPackage:
    return InstalledPackage(TEMPLATE, tmp_path_factory.mktemp("template"))


def test_the_installed_package_is_what_runs(installed: InstalledPackage) -> None:
    code = "import quire_template.op_backend as module; print(module.__file__)"
    file = subprocess.run([installed.python, "-c", code], capture_output=True, text=True, check=True).stdout
    assert Path(file.strip()).is_relative_to(installed.folder / "venv")


def test_both_devices_are_listed_after_our_own(installed: InstalledPackage) -> None:
    rows = {row["name"]: row for row in json.loads(installed.quire("devices", "--json").stdout)}
    for device in DEVICES:
        assert rows[device]["package"] == "quire-backend-template"
        assert rows[device]["report"]["available"]
    names = list(rows)
    assert max(map(names.index, DEVICES)) > names.index("reference")


def test_an_answer_is_the_one_of_the_reference(installed: InstalledPackage) -> None:
    words = ("generate", PROMPT, "--dtype", "float32", "--temperature", "0", "--max-tokens", "24", "--device")
    expected = installed.quire(*words, "reference").stdout
    assert len(expected.split()) > 8
    for device in DEVICES:
        assert installed.quire(*words, device).stdout == expected


@pytest.mark.parametrize(("device", "levels"), [("template_ops", ("L0", "L2")), ("template_step", ("L0", "L3"))])
def test_the_kit_passes(installed: InstalledPackage, device: str, levels: tuple[str, ...]) -> None:
    flags = [word for level in levels for word in ("--level", level)]
    ended = installed.quire("conform", "--device", device, *flags, "--json", f"{device}.json", check=False)
    assert ended.returncode == 0, ended.stderr + ended.stdout
    report = json.loads((installed.folder / f"{device}.json").read_text())
    assert report["passed"]
    assert all(report["levels"][level]["passed"] > 20 for level in levels)


def test_the_templates_own_tests_pass_and_the_kit_joins_them(installed: InstalledPackage) -> None:
    words = ("-q", "-p", "no:cacheprovider", str(installed.source))
    ended = installed.run("pytest", *words, "--quire-device", "template_step", "--quire-level", "L0", check=False)
    assert ended.returncode == 0, ended.stdout
    assert int(ended.stdout.rpartition(" passed")[0].split()[-1]) > 30


def test_an_option_it_does_not_have_is_refused(installed: InstalledPackage) -> None:
    ended = installed.quire("generate", PROMPT, "--device", "template_ops", "--device-option", "lanes=8", check=False)
    assert ended.returncode != 0
    assert "lanes" in ended.stderr


@pytest.mark.parametrize("file", sorted(TEMPLATE.rglob("*.py")), ids=lambda file: file.name)
def test_files_are_short_and_import_only_the_contract(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 250
    allowed = ("quire.device", "quire.graph", "quire.weights", "quire.testing")
    for line in text.splitlines():
        words = line.split()
        if line.startswith(("from quire.", "import quire.")):
            assert words[1].startswith(allowed), f"{file.name} imports {words[1]}"
