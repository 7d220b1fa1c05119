"""Commands, exit codes, and errors that say what, because of what, and what to try."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from quire import __version__
from quire.cli.backend_options import flags_of
from quire.cli.foreign_words import FOREIGN_COMMANDS, FOREIGN_FLAGS
from quire.cli.main import COMMANDS, build_parser

QUIRE = (sys.executable, "-c", "import sys; from quire.cli.main import main; sys.exit(main())")
"""A process of its own."""


def test_version_and_help(quire: Callable) -> None:
    assert quire("--version").out == f"quire {__version__}\n"
    listed = quire("--help").out
    for name, text in COMMANDS.items():
        assert f"{name} " in listed
        assert text.split(",")[0][:20] in listed
        shown = quire(name, "--help")
        assert shown.code == 0
        assert "(default: None)" not in shown.out
    assert "(default: 8000)" in quire("serve", "--help").out


@pytest.mark.parametrize(("words", "said"), [
    ([], "required: COMMAND"),
    (["fly"], "invalid choice: 'fly'"),
    (["generate"], "required: prompt"),
    (["generate", "a", "--temprature", "1"], "unrecognized arguments: --temprature"),
    (["generate", "a", "--max-tok", "1"], "unrecognized arguments: --max-tok"),  # no abbreviations
    (["generate", "a", "--max-tokens", "many"], "invalid int value: 'many'"),
    (["serve", "--load-format", "gguf9"], "invalid choice: 'gguf9'"),
    (["devices", "--fake-latency-ms", "1"], "unrecognized arguments: --fake-latency-ms"),
    (["bench", "core", "--cpu-threads", "1"], "unrecognized arguments: --cpu-threads"),
    (["bench", "core", "--steps", "0"], "whole number of at least 2"),
])  # fmt: skip
def test_wrong_usage(quire: Callable, words: list[str], said: str) -> None:
    ended = quire(*words)
    assert (ended.code, ended.out) == (2, "")
    assert said in ended.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["generate", "a", "--model", "no such folder!"], ["no model 'no such folder!'", "because:", "hint:"]),
        (
            ["generate", "a", "--device", "abacus"],
            ["device 'abacus' is not installed", "because: installed devices are", "fake"],
        ),
        (["generate", "a", "--model", ""], ["model=''", "text that is not empty"]),
        (["generate", "a", "--revision", "v1"], ["revision 'v1' of the demo model"]),
        (["generate", "a", "--device", "fake", "--dtype", "int3"], ["dtype='int3'", "float32"]),
        (["generate", "a", "--device", "fake", "--fake-speed", "9"], ["device fake has no option speed", "latency_ms"]),
        (["generate", "a", "--device", "fake", "--fake-speed"], ["--fake-speed has no value"]),
        (["generate", "a", "--device", "fake", "--fake-speed", "--raw"], ["--fake-speed has no value"]),
        (
            ["generate", "a", "--device", "fake", "--reference-x", "1"],
            ["--reference-x is an option of device reference", "the device is fake", "--device reference"],
        ),
        (
            ["generate", "a", "--device", "fake", "--device-option", "latency"],
            ["--device-option 'latency'", "KEY=VALUE"],
        ),
        (
            ["generate", "a", "--device", "fake", "--device-option", "latency_ms=1", "--fake-latency-ms", "2"],
            ["two values of device option latency_ms"],
        ),
        (["generate", "a", "--temperature", "-1"], ["temperature=-1.0 is not allowed", "because:", "hint:"]),
        (["generate", "a", "--skip-tokenizer-init"], ["--skip-tokenizer-init", "it reads and prints text"]),
        (["generate", "a", "--max-model-len", "0"], ["max_model_len=0", "at least 1"]),
        (["generate", "a", "--memory-utilization", "1.5"], ["memory_utilization=1.5"]),
        (["serve", "demo", "--model", "other"], ["two models: 'demo' and --model 'other'"]),
        (["serve", "--port", "70000"], ["port=70000", "0 to 65535"]),
        (["chat", "-n", "2"], ["-n 2"]),
        (
            ["inspect", "demo", "--device", "fake", "--max-model-len", "9999999"],
            ["max_model_len=9999999", "--max-model-len 2048"],
        ),
        (["inspect", "demo", "--device", "fake", "-tp", "2"], ["tensor_parallel_size=2", "max_tp=1"]),
    ],
)
def test_what_cannot_work_is_explained(quire: Callable, words: list[str], said: list[str]) -> None:
    ended = quire(*words)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("error: ")
    for text in said:
        assert text in ended.err


@pytest.mark.parametrize(("words", "meant"), [
    (["genrate", "a"], "generate"),
    (["ls"], "quire models"),
    (["pull", "x"], "quire run MODEL"),
    (["generate", "a", "--temprature", "1"], "--temperature"),
    (["generate", "a", "--Top_K", "1"], "--top-k"),
    (["generate", "a", "--n-predict", "3"], "--max-tokens N"),
    (["generate", "a", "--ctx-size=3"], "--max-model-len N"),
    (["chat", "-ngl", "99"], "--device cuda"),
    (["serve", "demo", "--prot", "1"], "--port"),
    (["generate", "a", "--load-format", "safetensor"], "safetensors"),
    (["bench", "latencies"], "latency"),
    (["help", "sreve"], "serve"),
])  # fmt: skip
def test_what_was_meant_is_named(quire: Callable, words: list[str], meant: str) -> None:
    ended = quire(*words)
    assert (ended.code, ended.out) == (2, "")
    assert re.search(rf"did you mean: {meant}( |\n)", ended.err)


def test_nothing_is_guessed_where_nothing_is_near(quire: Callable) -> None:
    for words in (["xyzzy"], ["generate", "a", "--xyzzy"], ["generate", "a", "-Z"], ["generate", "a", "b", "c"]):
        ended = quire(*words)
        assert (ended.code, "did you mean" in ended.err) == (2, False)
    assert len(quire("generate", "a", "b" * 100_000).err) < 10_000


def test_foreign_words_are_not_ours(quire: Callable) -> None:
    assert not set(FOREIGN_COMMANDS) & set(COMMANDS)
    ours = set(flags_of(build_parser("generate")))
    assert not set(FOREIGN_FLAGS) & ours
    for text in FOREIGN_FLAGS.values():  # what is recommended exists
        flags = re.findall(r"--[a-z-]+", text)
        assert all(flag in ours or flag in ("--cpu-threads", "--served-model-name") for flag in flags), text


def test_help_of_a_command(quire: Callable) -> None:
    assert quire("help").out == quire("--help").out
    assert quire("help", "chat").out == quire("chat", "--help").out
    assert quire("help", "bench", "core").out == quire("bench", "core", "--help").out


def test_run_answers_once_or_talks(quire: Callable, on_fake: tuple[str, ...]) -> None:
    model, flags = on_fake[1], (*on_fake[2:], "--temperature", "0", "--max-tokens", "3")
    for words in ([model, "one", "two", *flags], [model, *flags, "one"], [*flags, "-m", model, "one"]):
        assert quire("run", *words).out == "?@A\n"
    assert quire("run", model, *flags, stdin="one\ntwo\n").out == "?@A\n?@A\n"
    assert "unrecognized arguments: two --nix" in quire("run", model, *flags, "two", "--nix").err


def test_a_pipe_that_closes_is_no_traceback(byte_model: Path) -> None:
    code = (
        f"import sys; from quire.cli.main import main; sys.exit(main(['generate', 'a', '--model', {str(byte_model)!r}, "
        "'--device', 'fake', '--load-format', 'dummy', '--temperature', '0', '--ignore-eos']))"
    )
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run(
        [sys.executable, "-c", code], stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60, check=False
    )
    os.close(writing)
    assert ended.returncode == 141
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(("target", "code"), [("/dev/full", 2), ("closed", 0)])
def test_an_output_that_takes_nothing_is_no_traceback(byte_model: Path, target: str, code: int) -> None:
    words = ["generate", "a", "--model", str(byte_model), "--device", "fake", "--load-format", "dummy"]
    command = [*QUIRE, *words]
    redirect = ">&-" if target == "closed" else f"> {target}"
    ended = subprocess.run(
        ["sh", "-c", f'"$@" {redirect}', "sh", *command], stderr=subprocess.PIPE, text=True, timeout=60, check=False
    )
    assert (ended.returncode, "Traceback" in ended.stderr, "Exception" in ended.stderr) == (code, False, False)


def test_text_that_the_output_cannot_hold_is_replaced(byte_model: Path) -> None:
    words = [
        "generate",
        "\u00e3",
        "--raw",
        "--model",
        str(byte_model),
        "--device",
        "fake",
        "--load-format",
        "dummy",
        "--temperature",
        "0",
        "--max-tokens",
        "40",
    ]
    ended = subprocess.run(
        [*QUIRE, *words], capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"}, timeout=60, check=False
    )
    assert (ended.returncode, b"?" in ended.stdout, b"Traceback" in ended.stderr) == (0, True, False)


def test_ctrl_c_while_it_still_imports_is_an_exit_code() -> None:
    code = """
import sys
class Interrupt:
    def find_spec(self, name, *_):
        if name == "quire.cli.parser":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupt())
from quire.cli.entry import main
sys.exit(main())
"""
    done = subprocess.run([sys.executable, "-c", code, "devices"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "")
