"""The user guide: its Python blocks run; its flags, devices and fields exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from quire.device.registry import device_names

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "guide.md").read_text(encoding="utf-8")
FLAGS = (Path(__file__).parents[1] / "cli" / "flags.txt").read_text(encoding="utf-8")


def test_python_blocks_run_in_order(tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 4
    ended = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "A KV cache is" in ended.stdout


def test_flags_exist() -> None:
    flags = set(re.findall(r"--[a-z][a-z-]+", TEXT))
    assert len(flags) > 20
    devices = tuple(f"--{name}-" for name in device_names())
    unknown = [flag for flag in flags if not re.search(rf"{flag}\b(?!-)", FLAGS) and not flag.startswith(devices)]
    assert not unknown


def test_devices_exist() -> None:
    section = TEXT.split("## Devices")[1].split("\n## ")[0]
    named = [
        name
        for line in section.splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`(\w+)`", line.split("|")[1])
    ]
    assert {"cpu", "cuda", "rocm", "torch", "tpu", "reference", "fake"} == set(named)
    assert set(named) <= set(device_names())


def test_sampling_fields_exist() -> None:
    from dataclasses import fields

    from quire.sampling_params import SamplingParams

    known = {field.name for field in fields(SamplingParams)}
    section = TEXT.split("## Sampling")[1].split("\n## ")[0]
    for line in section.splitlines():
        if line.startswith("| `"):
            assert set(re.findall(r"`(\w+)`", line.split("|")[1])) <= known, line
