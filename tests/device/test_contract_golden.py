"""The device contract as written down: a change shows here, and asks for its version and its guide."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

import quire.device
from quire.device import CONTRACT_VERSION
from tests.scripts import load_script

GOLDEN = Path(__file__).parent / f"contract_v{CONTRACT_VERSION[0]}.golden"
GUIDE = Path(__file__).parents[2] / "docs" / "backend-guide.md"
VERSION = ".".join(map(str, CONTRACT_VERSION))


@pytest.fixture(scope="module")
def signatures() -> ModuleType:
    return load_script("tools/contract_signatures.py")


def test_the_contract_is_as_written_down(signatures: ModuleType) -> None:
    written, now = GOLDEN.read_text().splitlines(), list(signatures.contract_lines())
    gone, new = sorted(set(written) - set(now)), sorted(set(now) - set(written))
    assert written == now, (
        f"the contract changed.\ngone: {gone}\nnew: {new}\nIf that is meant: raise CONTRACT_VERSION, write it into the"
        " guide for authors of backends, and run python tools/contract_signatures.py --write"
    )


def test_every_exported_name_is_written_down() -> None:
    text = GOLDEN.read_text()
    assert text.splitlines()[0] == f"contract {VERSION}"
    missing = [name for name in quire.device.__all__ if name not in text]
    assert not missing


def test_the_guide_is_for_this_version() -> None:
    text = GUIDE.read_text(encoding="utf-8")
    assert f"now {VERSION}." in text
    assert f"QUIRE_CONTRACT = {CONTRACT_VERSION}" in text


def test_changed_signatures_are_not_written_under_the_same_version(signatures: ModuleType, tmp_path: Path) -> None:
    golden = tmp_path / "contract.golden"
    signatures.write(golden)
    assert golden.read_text() == GOLDEN.read_text()
    other = golden.read_text().replace("class KVPlan", "class KVPlans")
    golden.write_text(other)
    with pytest.raises(SystemExit, match="raise CONTRACT_VERSION first"):
        signatures.write(golden)
    assert golden.read_text() == other
    golden.write_text(other.replace(f"contract {VERSION}\n", "contract 0.9\n"))
    signatures.write(golden)
    assert golden.read_text() == GOLDEN.read_text()


def test_a_changed_signature_shows(signatures: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def derive(batch: int) -> None: ...

    before = list(signatures.contract_lines())
    monkeypatch.setattr(quire.device, "derive", derive)
    assert set(signatures.contract_lines()) - set(before) == {"def derive(batch: 'int') -> 'None'"}
