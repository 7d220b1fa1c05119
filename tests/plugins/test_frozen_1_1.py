"""A plugin written for contract 1.1 works on this core: `frozen_1_1` is never edited, and neither is `names_1_1.txt`.

The package is the backend template as it stood at contract 1.1: an op library, and an executor of its own. The names
are what such a plugin may import: all of `quire.device`, and of `quire.graph`, `quire.weights`, `quire.testing` and
`quire.errors` what the guide told authors to use.
"""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import pytest

from quire.device import CONTRACT_VERSION
from tests.support.installed_package import InstalledPackage

FROZEN = Path(__file__).parent / "frozen_1_1"
NAMES = [tuple(line.split()) for line in Path(__file__).with_name("names_1_1.txt").read_text().splitlines()]
DEVICES = ("frozen_ops", "frozen_step")
WORDS = ("generate", "What is a block table?", "--dtype", "float32", "--temperature", "0", "--max-tokens", "24")


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> InstalledPackage:
    return InstalledPackage(FROZEN, tmp_path_factory.mktemp("frozen"))


def test_the_plugin_is_for_1_1_and_the_core_is_not_older() -> None:
    assert (1, 1) <= CONTRACT_VERSION < (2, 0)
    for file in ("op_backend.py", "step_backend.py"):
        assert "QUIRE_CONTRACT = (1, 1)" in FROZEN.joinpath("quire_frozen_1_1", file).read_text()


@pytest.mark.parametrize(("module", "name"), NAMES, ids=".".join)
def test_what_it_may_import_is_there(module: str, name: str) -> None:
    assert hasattr(importlib.import_module(module), name)


def test_it_imports_nothing_else() -> None:
    allowed = set(NAMES)
    for file in FROZEN.rglob("*.py"):
        for module, names in re.findall(r"^from (quire\.\S+) import \(?([^)]*?)\)?$", file.read_text(), re.M | re.S):
            assert {(module, name.strip()) for name in names.split(",") if name.strip()} <= allowed, file


def test_both_devices_are_listed(frozen: InstalledPackage) -> None:
    rows = {row["name"]: row for row in json.loads(frozen.quire("devices", "--json").stdout)}
    assert [rows[device]["report"]["available"] for device in DEVICES] == [True, True]


def test_an_answer_is_the_one_of_the_reference(frozen: InstalledPackage) -> None:
    expected = frozen.quire(*WORDS, "--device", "reference").stdout
    assert len(expected.split()) > 8
    for device in DEVICES:
        assert frozen.quire(*WORDS, "--device", device).stdout == expected


@pytest.mark.parametrize("device", DEVICES)
def test_the_kit_passes(frozen: InstalledPackage, device: str) -> None:
    ended = frozen.quire("conform", "--device", device, "--json", f"{device}.json", check=False)
    assert ended.returncode == 0, ended.stderr + ended.stdout
    report = json.loads((frozen.folder / f"{device}.json").read_text())
    assert report["passed"]
    assert {level for level, counts in report["levels"].items() if counts["passed"]} >= {"L0", "L1", "L2", "L3", "L4"}


def test_its_errors_still_say_what_to_try(frozen: InstalledPackage) -> None:
    ended = frozen.quire(*WORDS, "--device", "frozen_ops", "--device-option", "lanes=8", check=False)
    assert ended.returncode != 0
    assert "hint: leave --device-option out" in ended.stderr
