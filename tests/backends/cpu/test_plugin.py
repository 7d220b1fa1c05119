"""The plugin: probe, capabilities, options."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from quire.device.host_cpus import available_cpus
from quire.device.registry import resolve_device
from quire.errors import ConfigError
from quire.graph.ops import FUSED_OPS, OPS
from quire_cpu import _native, plugin
from quire_cpu.options import CpuOptions
from tests.backends.cpu.devices import cpu_driver
from tests.device.conftest import Line


def test_probe_tells_the_kernels_asked_for() -> None:
    assert plugin.quire_probe("cpu", {"kernels": "portable"}).driver == "portable kernels"
    assert plugin.quire_probe("cpu", {"kernels": "none"}).driver == plugin.quire_probe("cpu", {}).driver


def test_probe_tells_name_memory_and_kernels() -> None:
    report = plugin.quire_probe("cpu", {})
    assert report.available
    assert report.name
    assert 0 < report.free_memory_bytes <= report.total_memory_bytes
    assert dict(report.details)["cores"] == str(available_cpus())
    assert _native.available_kernels()[0] in report.driver


def test_capabilities_cover_the_op_set() -> None:
    capabilities = resolve_device("cpu").capabilities
    assert capabilities.ops | capabilities.fused_ops == set(OPS)
    assert capabilities.fused_ops == FUSED_OPS


def test_auto_prefers_the_cpu_to_the_reference() -> None:
    assert plugin.quire_probe("cpu", {}).priority > resolve_device("reference").report.priority


def test_options_have_defaults_and_are_parsed() -> None:
    assert CpuOptions.parse({}) == CpuOptions(threads=available_cpus())
    parsed = CpuOptions.parse({"threads": "3", "kernels": "portable", "poison": "true"})
    assert parsed == CpuOptions(threads=3, kernels="portable", poison=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"thread": "3"}, "no option thread"),
        ({"threads": "0"}, "threads=0"),
        ({"threads": "two"}, "threads=two"),
        ({"kernels": "mmx"}, "kernels=mmx"),
        ({"poison": "yes"}, "poison=yes"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plugin.quire_capabilities("cpu", options)


def test_importing_the_plugin_loads_no_native_code() -> None:
    code = "import sys, quire_cpu.plugin; print('quire_cpu._native' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_native_plan_names_unknown_ops_and_fields() -> None:
    def plan() -> _native.Plan:
        return _native.Plan(
            kernels="",
            threads=1,
            poison=False,
            kv_dtype="float32",
            block_size=16,
            max_tokens=4,
            max_seqs=1,
            max_logits=1,
            max_len=16,
            vocab_size=0,
        )

    place = _native.Operand(_native.Space.arena, 0, 8, _native.RowSymbol.T, 1, 8)
    with pytest.raises(ValueError, match="no op fourier"):
        plan().add_op("fourier", False)
    with pytest.raises(ValueError, match="add: y is missing"):
        plan().add_op("add", False, a=place, b=place)
    with pytest.raises(ValueError, match="add: z is not known"):
        plan().add_op("add", False, a=place, b=place, y=place, z=1)
    with pytest.raises(ValueError, match="scale: value must be a number"):
        plan().add_op("scale", False, x=place, y=place, value="one")
    with pytest.raises(IndexError):
        plan().add_op("linear", False, x=place, y=place, weight=3, bias=None)


def test_limits_are_measured() -> None:
    limits = plugin.quire_measure_limits("cpu", {"threads": "2"})
    assert 1e9 < limits.read_bytes_per_s < 1e13
    assert 1e9 < limits.flops_per_s < 1e14
    assert "2 threads" in limits.description


def test_limits_are_of_the_kernels_asked_for() -> None:
    limits = plugin.quire_measure_limits("cpu", {"threads": "1", "kernels": "portable"})
    assert limits.flops_per_s > 1e8
    assert limits.bf16_flops_per_s is None
    assert limits.int8_ops_per_s is None


def test_time_is_told_by_native_op() -> None:
    driver = cpu_driver()
    driver.executor.set_profiling(True)
    driver.step([(Line([3, 4], {"full": [0], "sliding": [1]}), 2)])
    profile = driver.executor.take_profile()
    assert profile["linear"] > 0
    assert set(driver.executor.take_profile().values()) == {0.0}


def test_steps_tell_when_they_ran_and_how_long_they_were_in_ops() -> None:
    driver, line = cpu_driver(), Line([3, 4, 5], {"full": [0], "sliding": [1]})
    driver.step([(line, 1)])
    driver.executor.set_profiling(True)
    before = time.monotonic()
    for _ in range(2):
        driver.step([(line, 1)])
    times = driver.executor.take_step_times()
    stamps = [stamp for begin, end, _ in times for stamp in (begin, end)]
    assert len(times) == 2
    assert stamps == sorted(stamps)
    assert before <= stamps[0] <= stamps[-1] <= time.monotonic()
    assert all(0 < in_ops <= end - begin for begin, end, in_ops in times)
    assert driver.executor.take_step_times() == []
