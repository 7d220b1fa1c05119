"""The devices torch, cuda and rocm on machines that have them, lack them, or lack torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import quire_cuda.machine
import quire_cuda.plugin
import quire_rocm.machine
import quire_rocm.plugin
import quire_torch.plugin
from quire.device.registry import resolve_device
from quire.errors import BackendError, ConfigError
from quire_cuda.machine import NvidiaDevice, NvidiaMachine
from quire_rocm.machine import AmdDevice
from quire_torch.accelerator import CUDA_CAPABILITIES, capabilities
from quire_torch.installed import local_build
from quire_torch.options import TorchOptions
from tests.device.conftest import make_plan

H200 = NvidiaMachine("580.65", (NvidiaDevice(0, "NVIDIA H200", 141 << 30, 140 << 30),) * 2)
MI300 = (AmdDevice("gfx942", 192 << 30, 190 << 30),)


def test_nothing_but_an_executor_imports_torch() -> None:
    code = (
        "import sys, quire.device.registry as r; rows = r.list_devices();"
        "r.resolve_device('torch'); print('torch' in sys.modules, *[row.name for row in rows])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    words = done.stdout.split()
    assert words[0] == "False"
    assert {"torch", "cuda", "rocm"} <= set(words[1:])


@pytest.mark.parametrize("plugin", [quire_torch.plugin, quire_cuda.plugin, quire_rocm.plugin])
def test_without_torch_the_reason_says_so(plugin: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quire_cuda.machine, "look", lambda: H200)
    monkeypatch.setattr(quire_rocm.machine, "look", lambda: (MI300, ""))
    monkeypatch.setattr(plugin, "torch_version", lambda: None)
    report = plugin.quire_probe("x", {})  # type: ignore[attr-defined]
    assert not report.available
    assert report.reason.startswith("torch is not installed")


def test_a_torch_for_another_device_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quire_cuda.machine, "look", lambda: H200)
    monkeypatch.setattr(quire_rocm.machine, "look", lambda: (MI300, ""))
    monkeypatch.setattr(quire_cuda.plugin, "torch_version", lambda: "2.13.0+cpu")
    monkeypatch.setattr(quire_rocm.plugin, "torch_version", lambda: "2.13.0")
    assert "built without CUDA" in quire_cuda.plugin.quire_probe("cuda", {}).reason
    assert "built without ROCm" in quire_rocm.plugin.quire_probe("rocm", {}).reason


def test_a_machine_that_has_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quire_cuda.machine, "look", lambda: H200)
    monkeypatch.setattr(quire_cuda.plugin, "torch_version", lambda: "2.13.0+cu130")
    report = quire_cuda.plugin.quire_probe("cuda", {})
    assert (report.available, report.name, report.num_devices) == (True, "NVIDIA H200", 2)
    assert (report.total_memory_bytes, report.free_memory_bytes) == (141 << 30, 140 << 30)
    assert report.driver == "580.65, torch 2.13.0+cu130"


def test_without_a_driver_the_reason_says_so(tmp_path: Path) -> None:
    if not Path("/proc/driver/nvidia").exists() and not Path("/dev/dxg").exists():
        assert "no NVIDIA driver" in quire_cuda.machine.look().reason
    assert "does not exist" in quire_rocm.machine.look(tmp_path / "kfd")[1]
    (tmp_path / "kfd").touch()
    assert "cannot be read" in quire_rocm.machine.look(tmp_path / "kfd", tmp_path / "nodes")[1]


def test_amd_gpus_are_read_from_the_drivers_files(tmp_path: Path) -> None:
    (tmp_path / "kfd").touch()
    nodes = {
        "0": "simd_count 0\ngfx_target_version 0\n",
        "1": "simd_count 304\ngfx_target_version 90402\n",
        "2": "simd_count 440\ngfx_target_version 90010\n",
    }
    for number, text in nodes.items():
        folder = tmp_path / "nodes" / number
        folder.mkdir(parents=True)
        (folder / "properties").write_text(f"cpu_cores_count 0\n{text}drm_render_minor {128 + int(number)}\n")
    card = tmp_path / "drm" / "renderD129" / "device"
    card.mkdir(parents=True)
    (card / "mem_info_vram_total").write_text("1000\n")
    (card / "mem_info_vram_used").write_text("10\n")
    found, reason = quire_rocm.machine.look(tmp_path / "kfd", tmp_path / "nodes", tmp_path / "drm")
    assert found == (AmdDevice("gfx942", 1000, 990), AmdDevice("gfx90a", 0, 0))
    assert reason == ""


def test_options() -> None:
    assert TorchOptions.parse({"device": "xpu"}).device_type == "xpu"
    assert TorchOptions.parse({"threads": "2"}).threads == 2
    assert TorchOptions.parse({}, name="cuda", device="cuda").device == "cuda"
    for options, words in (
        ({"cores": "2"}, "no option cores"),
        ({"device": "tpu"}, "device=tpu"),
        ({"threads": "0"}, "from 1 to 1024"),
        ({"threads": "2", "device": "cuda"}, "on the CPU"),
    ):
        with pytest.raises(ConfigError, match=words):
            TorchOptions.parse(options)
    with pytest.raises(ConfigError, match="device=cpu on device cuda"):
        quire_cuda.plugin.quire_capabilities("cuda", {"device": "cpu"})


@pytest.mark.parametrize("plugin", [quire_torch.plugin, quire_cuda.plugin, quire_rocm.plugin])
def test_the_contract_that_a_plugin_states_is_the_one_it_declares(plugin: object) -> None:
    declared = plugin.quire_capabilities("x", {}).contract  # type: ignore[attr-defined]
    assert declared == plugin.QUIRE_CONTRACT  # type: ignore[attr-defined]


def test_capabilities_follow_the_device() -> None:
    assert resolve_device("torch").capabilities.act_dtypes[0] == "float32"
    assert CUDA_CAPABILITIES.act_dtypes[0] == "bfloat16"
    assert "top_p" not in capabilities("mps").device_sampling
    assert capabilities("xpu").device_sampling == quire_torch.plugin.CAPABILITIES.device_sampling


@pytest.mark.parametrize("plugin", [quire_cuda.plugin, quire_rocm.plugin])
def test_an_executor_without_its_gpu_is_refused(plugin: object) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU that torch can use")
    with pytest.raises(BackendError, match="cannot be used"):
        plugin.quire_create_executor("cuda", make_plan())  # type: ignore[attr-defined]


def test_a_device_that_torch_does_not_find_is_told_with_torchs_version() -> None:
    import torch

    if torch.xpu.is_available():
        pytest.skip("this machine has the device that the test wants absent")
    report = quire_torch.plugin.quire_probe("torch", {"device": "xpu"})
    assert not report.available
    assert torch.__version__ in report.reason


def test_builds_are_told_by_the_local_part_of_the_version() -> None:
    assert [local_build(v) for v in ("2.13.0", "2.13.0+cpu", "2.13.0+rocm6.4")] == ["", "cpu", "rocm6.4"]
