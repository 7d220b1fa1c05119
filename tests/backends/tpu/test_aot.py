"""Ahead-of-time compilation for a TPU: a whole step compiles; a cache or a weight that is copied does not pass."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.experimental import topologies
from jax.experimental.layout import Format

from quire_tpu import aot
from quire_tpu.plain_ops import linear
from quire_tpu.weight_format import stacked_format

pytestmark = pytest.mark.skipif(find_spec("libtpu") is None, reason="libtpu, the compiler, is not installed")

TINY = {
    **aot._QWEN3,
    "vocab_size": 1024,
    "hidden_size": 256,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
CASE = aot.AotCase("tiny", TINY, tokens=8, seqs=8, num_blocks=255)
TOPOLOGY = "v5e:2x2"


@pytest.fixture(autouse=True, scope="module")
def quiet() -> None:
    aot.quiet_libtpu()


def test_a_step_compiles_and_updates_its_cache_in_place(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(aot, "CASES", (CASE,))
    assert aot.main(["--topology", TOPOLOGY, "--json"]) == 0
    (report,) = json.loads(capsys.readouterr().out)
    assert report["problem"] == ""
    assert report["kernel"]
    assert report["kv_bytes"] == 2 * 3 * 256 * 32 * 256 * 2
    assert report["temp_bytes"] < report["kv_bytes"] / 4


def test_what_does_not_fit_the_chip_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(aot, "CASES", (replace(CASE, num_blocks=400_000),))
    assert aot.main(["--topology", TOPOLOGY, "--markdown"]) == 1
    assert "hbm" in capsys.readouterr().out.lower()


def test_a_cache_that_is_scanned_over_does_not_pass() -> None:
    """The mistake that the check is for: the arguments are aliased here as well."""
    device = topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGY).devices[0]
    shape = (4, 256, 32, 256)
    cache = jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=jax.sharding.SingleDeviceSharding(device))
    row = jax.ShapeDtypeStruct((8,), jnp.int32, sharding=cache.sharding)

    def scanned(cache: jax.Array, blocks: jax.Array) -> tuple[jax.Array, jax.Array]:
        def body(total: jax.Array, layer: jax.Array) -> tuple[jax.Array, jax.Array]:
            layer = layer.at[blocks, 3].set(total)
            return total + layer[blocks, 0], layer

        total, cache = lax.scan(body, jnp.ones((8, 256), jnp.bfloat16), cache)
        return cache, total

    compiled = jax.jit(scanned, donate_argnums=0).lower(cache, row).compile()
    memory = compiled.memory_analysis()
    num_bytes = 2 * 4 * 256 * 32 * 256
    assert memory.alias_size_in_bytes == num_bytes
    assert aot.kv_problem(compiled.as_text(), [shape], memory.temp_size_in_bytes, num_bytes)


def test_stacked_weights_that_lie_as_the_chip_would_have_them_do_not_pass_on_tpu7x() -> None:
    """Nothing is wrong with the program; the step would begin by laying out every matrix anew."""
    device = topologies.get_topology_desc(platform="tpu", topology_name="tpu7x:2x2x1").devices[0]
    where, shape = jax.sharding.SingleDeviceSharding(device), (12, 4096, 4096)

    def layers(x: jax.Array, stacked: jax.Array) -> jax.Array:
        return lax.scan(lambda x, weight: (jnp.tanh(linear(x, weight, None, out_dtype=x.dtype)), None), x, stacked)[0]

    def problem(placed: Any) -> str:
        x = jax.ShapeDtypeStruct((64, 4096), jnp.bfloat16, sharding=where)
        stacked = jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=placed)
        compiled = jax.jit(layers).lower(x, stacked).compile()
        return aot.weight_problem(compiled.as_text(), [shape])

    assert problem(where).startswith("a weight, [12,4096,4096], is copied in every step, by ")
    assert problem(stacked_format(where, device.device_kind, 3, jnp.bfloat16)) == ""


def test_only_what_that_chip_needs_is_placed_by_hand() -> None:
    where = jax.sharding.SingleDeviceSharding(jax.devices("cpu")[0])
    assert stacked_format(where, "TPU v5 lite", 3, jnp.bfloat16) is where
    assert stacked_format(where, "TPU7x", 3, jnp.float32) is where
    placed = stacked_format(where, "TPU7x", 4, jnp.bfloat16)
    assert isinstance(placed, Format)
    assert placed.layout.major_to_minor == (0, 1, 2, 3)
