"""The matrix of devices and the program that a runner executes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from quire.cli.main import build_parser
from quire.device.registry import device_names
from tests.scripts import load_script

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def runner() -> ModuleType:
    return load_script("ci/run_target.py")


def test_every_target_names_an_installed_device(runner: ModuleType) -> None:
    targets, _ = runner.read_matrix()
    assert len(targets) >= 15
    example = {target.device for target in targets.values() if "./examples/backend-template" in target.packages}
    assert {target.device for target in targets.values()} - {""} <= set(device_names()) | example
    assert example == {"template_ops", "template_step"}
    assert (ROOT / "examples" / "backend-template" / "pyproject.toml").is_file()


def test_every_command_of_quire_is_one_that_it_takes(runner: ModuleType, tmp_path: Path) -> None:
    targets, steps = runner.read_matrix()
    parser, seen = build_parser(), 0
    for target in targets.values():
        for command in runner.commands(target, steps, tmp_path):
            if "quire.cli.main" in command.words:
                parser.parse_args(command.words[command.words.index("quire.cli.main") + 1 :])
                seen += 1
    assert seen > 40


def test_every_target_with_a_device_runs_the_kit(runner: ModuleType, tmp_path: Path) -> None:
    targets, steps = runner.read_matrix()
    for target in targets.values():
        words = [word for command in runner.commands(target, steps, tmp_path) for word in command.words]
        assert (str(tmp_path / f"{target.name}.json") in words) == bool(target.device)
        for key, value in target.options.items():
            assert f"{key}={value}" in words


def test_only_named_runners_of_their_own_are_asked_for(runner: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert runner.main(["--github", ""]) == 0
    hosted = [entry["name"] for entry in json.loads(capsys.readouterr().out)]
    assert {"reference", "cpu-avx2", "cpu-portable", "torch-cpu", "jax-cpu"} <= set(hosted)
    assert not [name for name in hosted if name.startswith(("cuda", "rocm", "tpu"))]
    assert runner.main(["--github", "cuda-sm_90, "]) == 0
    named = json.loads(capsys.readouterr().out)
    assert [entry["name"] for entry in named if entry["name"] not in hosted] == ["cuda-sm_90"]
    with pytest.raises(ValueError, match="abacus"):
        runner.main(["--github", "abacus"])


def test_a_failed_step_does_not_stop_the_others_and_is_not_forgotten(
    runner: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    python, file = sys.executable, tmp_path / "out.json"
    steps = {
        "first": runner.Step("", ("{python} -c 'raise SystemExit(3)'",)),
        "second": runner.Step("", ("{python} -c 'print(1)'",), "{results}/out.json"),
    }
    target = runner.Target(name="t", hardware="", runner=(), steps=("first", "second"))
    found = runner.commands(target, steps, tmp_path)
    assert [command.words[0] for command in found] == [python, python]
    assert runner.run(found, {}) == 1
    assert file.read_text() == "1\n"
    printed = capfd.readouterr().out
    assert "first            FAILED with 3" in printed
    assert "second           passed" in printed
    assert runner.run(found[1:], {}) == 0


@pytest.mark.parametrize("words", [["--target", "abacus"], ["--target", "reference", "--step", "compile-triton"]])
def test_what_the_matrix_does_not_have_is_refused(runner: ModuleType, words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        runner.main([*words, "--dry-run"])
    assert ended.value.code == 2


def test_the_workflow_reads_the_matrix_and_runs_targets() -> None:
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    assert "ci/run_target.py --github" in text
    assert 'ci/run_target.py --target "$TARGET"' in text
    assert "bash .ci/run" in text


def test_commands_get_the_targets_environment(runner: ModuleType, capfd: pytest.CaptureFixture[str]) -> None:
    command = runner.Command("t", (sys.executable, "-c", "import os; print(os.environ['QUIRE_TEST_ENV'])"), None)
    assert runner.run([command], {"QUIRE_TEST_ENV": "two devices"}) == 0
    assert "two devices" in capfd.readouterr().out
    assert runner.main(["--target", "jax-cpu", "--step", "kit", "--dry-run"]) == 0
    assert capfd.readouterr().out.startswith("XLA_FLAGS=--xla_force_host_platform_device_count=2 ")
