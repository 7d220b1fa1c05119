"""What the tpu device says of itself, and that it does not import JAX to say it is absent."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from quire.device.registry import resolve_device
from quire.engine.build import load_engine
from quire.engine.config import EngineConfig
from quire.errors import BackendError, ConfigError
from quire.graph.ir import Value
from quire.graph.shapes import T, shape_of
from quire_tpu import executor, plugin
from quire_tpu.attention import paged_attention
from quire_tpu.attention_choice import AttentionChoice, choose_attention
from quire_tpu.options import TpuOptions
from tests.backends.cpu.devices import OneNode, one_node_model
from tests.device.conftest import make_plan

HAS_TPU = any([*Path("/dev").glob("accel*"), *Path("/dev/vfio").glob("[0-9]*")])


@pytest.fixture(autouse=True)
def no_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QUIRE_JAX_PLATFORM", raising=False)


@pytest.mark.skipif(HAS_TPU, reason="there is a TPU here")
def test_without_a_tpu_the_reason_is_given_and_jax_stays_out() -> None:
    program = (
        "import sys; from quire_tpu.plugin import quire_probe; report = quire_probe(device='tpu', options={});"
        "print(report.available, report.reason, 'jax' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("False no TPU: ")
    assert "--tpu-platform cpu" in done.stdout
    assert done.stdout.endswith("False\n")
    with pytest.raises(BackendError, match="not usable"):
        plugin.quire_create_executor("tpu", make_plan())


def test_without_jax_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin, "find_spec", lambda name: None)
    report = plugin.quire_probe("tpu", {"platform": "cpu"})
    assert not report.available
    assert "quire[tpu]" in report.reason


@pytest.mark.parametrize("way", ["option", "environment"])
def test_another_platform_is_named_as_such(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if way == "environment":
        monkeypatch.setenv("QUIRE_JAX_PLATFORM", "cpu")
    backend = resolve_device("tpu", {"platform": "cpu"} if way == "option" else {})
    assert "not a TPU" in backend.report.name
    assert backend.report.total_memory_bytes > 0
    assert backend.capabilities.shares_host_memory


def test_a_platform_that_jax_lacks_and_unknown_options() -> None:
    report = plugin.quire_probe("tpu", {"platform": "abacus"})
    assert not report.available
    assert "abacus" in report.reason
    assert "no option speed" in plugin.quire_probe("tpu", {"speed": "11"}).reason
    with pytest.raises(ConfigError, match="attention=magic"):
        plugin.quire_capabilities("tpu", {"attention": "magic"})


def test_the_kernel_is_refused_by_name_where_heads_do_not_fit() -> None:
    with pytest.raises(ConfigError, match="multiples of 128"):
        choose_attention(make_plan(), TpuOptions("tpu", "pallas"))


def _alibi_attention(n: OneNode, x: Value) -> Value:
    parts = zip(n.t.split(x, sizes=shape_of(256, 128, 128)), (2, 1, 1), strict=True)
    q, k, v = (n.t.reshape(part, shape=shape_of(T, heads, 128)) for part, heads in parts)
    n.cache = n.t.cache_write(n.cache, k, v)
    return n.t.paged_attention(q, n.cache, scale=0.25, alibi=8.0)


def test_the_slower_attention_of_a_tpu_says_why() -> None:
    alibi = make_plan(one_node_model(_alibi_attention, 512, kv_heads=1, head_dim=128))
    for plan, why in ((make_plan(), "multiples of 128"), (alibi, "does not know paged_attention.alibi")):
        choice = choose_attention(plan, TpuOptions("tpu"))
        assert choice.function is paged_attention
        assert why in choice.remark
        for platform, attention in (("tpu", "jnp"), ("cpu", "auto")):
            assert choose_attention(plan, TpuOptions(platform, attention)) == AttentionChoice(paged_attention)


def test_the_remark_is_in_the_placement_and_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(executor, "choose_attention", lambda plan, options: AttentionChoice(paged_attention, "slower"))
    config = EngineConfig(device="tpu", device_options={"platform": "cpu"}, num_kv_blocks=4, max_model_len=16)
    with caplog.at_level(logging.WARNING, "quire"):
        loaded = load_engine(config)
    loaded.close()
    assert dict(loaded.memory.placement)["paged_attention"] == "tpu (slower)"
    assert set(dict(loaded.memory.placement).values()) == {"tpu", "tpu (slower)"}
    assert "paged_attention on tpu (slower)" in caplog.text
