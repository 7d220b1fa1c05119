"""The support matrix is what the results say, and hides nothing."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.scripts import load_script

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return load_script("tools/support_matrix.py")


def case(name: str, status: str, reason: str = "") -> dict[str, Any]:
    return {"name": name, "status": status, "reason": reason, "bound": None, "worst_error": None}


def result(device: str, *cases: dict[str, Any], levels: tuple[str, ...] = ("L2",)) -> dict[str, Any]:
    def count(level: str, status: str) -> int:
        return sum(c["name"].startswith(level) and c["status"] == status for c in cases)

    return {
        "schema": 1,
        "device": device,
        "cases": list(cases),
        "run": {"hardware": "a chip"},
        "levels": {
            level: {
                "passed": count(level, "passed"),
                "failed": count(level, "failed"),
                "gap": count(level, "gap"),
                "unexpected_pass": count(level, "unexpected pass"),
                "not_applicable": count(level, "not applicable"),
            }
            for level in levels
        },
    }


@pytest.fixture
def written(tool: ModuleType, tmp_path: Path) -> Any:
    """written(name=json, ...) -> the page."""

    def write(**results: dict[str, Any]) -> str:
        folder = tmp_path / "results"
        folder.mkdir()
        for name, value in results.items():
            folder.joinpath(f"{name.replace('_', '-')}.json").write_text(json.dumps(value))
        output = tmp_path / "page.md"
        assert tool.main(["--results", str(folder), "--output", str(output)]) == 0
        return output.read_text()

    return write


def row(page: str, title: str, first: str) -> list[str]:
    """The cells of a table's row, under a heading."""
    section = page.split(f"## {title}\n")[1].split("\n## ")[0]
    (line,) = [line for line in section.splitlines() if line.startswith(f"| `{first}` |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_committed_page_is_what_the_committed_results_say(tool: ModuleType) -> None:
    assert tool.main(["--check"]) == 0


def test_check_notices_another_page(tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text((ROOT / "docs" / "support-matrix.md").read_text() + "all is well\n")
    assert tool.main(["--check", "--output", str(page)]) == 1
    assert "is not what" in capsys.readouterr().err


def test_a_target_without_a_result_is_untested_everywhere(written: Any) -> None:
    page = written()
    for title in ("Levels of the kit", "Dtypes", "Models", "Serving"):
        assert set(row(page, title, "cuda-sm_90")[3 if title.startswith("Levels") else 1 :]) == {"untested"}
    assert "`cuda-sm_90`" in page.split("Untested, every op:")[1].splitlines()[0]


def test_a_level_that_was_not_run_is_untested(written: Any) -> None:
    page = written(reference=result("reference", case("L2/linear/square/act=float32", "passed")))
    levels = row(page, "Levels of the kit", "reference")
    assert levels[5] == "1 of 1"
    assert levels[3:5] + levels[6:] == ["untested"] * 8
    assert row(page, "Models", "reference")[1:] == ["untested"] * 4


def test_one_failure_marks_the_op_the_level_and_the_list(written: Any) -> None:
    page = written(
        cpu_avx2=result(
            "cpu",
            case("L2/linear/square/act=float32", "passed"),
            case("L2/linear/odd/act=float32", "failed", "error 3, at most\n1e-5 is allowed"),
            case("L2/add/plain/act=float32", "passed"),
        )
    )
    assert row(page, "Levels of the kit", "cpu-avx2")[5] == "**2 of 3**"
    assert row(page, "Ops", "linear")[1] == "**fail**"
    assert row(page, "Ops", "add")[1] == "pass"
    assert "- `cpu-avx2`, failed: `L2/linear/odd/act=float32`: error 3, at most 1e-5 is allowed" in page


def test_a_gap_is_neither_a_pass_nor_hidden(written: Any) -> None:
    page = written(
        torch_cpu=result(
            "torch",
            case("L2/experts/a", "gap", "no grouped kernel"),
            case("L2/experts/b", "gap", "no grouped kernel"),
            case("L2/add/a", "passed"),
        )
    )
    assert row(page, "Ops", "experts")[1] == "gap"
    assert row(page, "Levels of the kit", "torch-cpu")[5] == "1 of 3, 2 gaps"
    assert "`torch-cpu`, gap: `L2/experts/a` and 1 more: no grouped kernel" in page


def test_not_declared_and_not_tried_are_told_apart(written: Any) -> None:
    page = written(
        reference=result(
            "reference",
            case("L2/experts", "not applicable", "the device does not declare it"),
            case("L2/all_reduce", "not applicable", "it needs several ranks, which this version does not start"),
        )
    )
    assert row(page, "Ops", "experts")[1] == "no"
    assert row(page, "Ops", "all_reduce")[1] == "untested"


@pytest.mark.parametrize(("name", "device"), [("nobodys_chip", "cpu"), ("cpu_avx2", "torch")])
def test_a_result_of_no_target_or_of_another_device_is_refused(written: Any, name: str, device: str) -> None:
    with pytest.raises(ValueError, match=name.replace("_", "-")):
        written(**{name: result(device)})


def test_compiled_programs_are_counted_by_chip(written: Any) -> None:
    kernels = [
        {"variant": "a", "chip": "sm_90", "fits": True},
        {"variant": "b", "chip": "sm_90", "fits": False, "spilled": 8, "shared_bytes": 100},
        {"variant": "a", "chip": "gfx942", "fits": True},
    ]
    steps = [
        {"case": "decode", "topology": "v5e:2x2", "problem": ""},
        {"case": "decode", "topology": "v6e:2x2", "problem": "the cache is copied"},
    ]
    page = written(aot_torch={"triton": "3.7.1", "kernels": kernels}, aot_tpu=steps)
    title = "Compiled ahead of time"
    assert row(page, title, "cuda-sm_90")[2] == "**1 of 2**"
    assert row(page, title, "rocm-gfx942")[2] == "1 of 1, 1 untested"
    assert row(page, title, "cuda-sm_80")[2] == "untested"
    assert row(page, title, "tpu-v5e")[2] == "1 of 1"
    assert row(page, title, "tpu-v6e")[2] == "**0 of 1**"
    assert "- sm_90, b: 8 spilled, 100 bytes shared" in page
    assert "- v6e, decode: the cache is copied" in page
