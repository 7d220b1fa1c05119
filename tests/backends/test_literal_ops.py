"""A backend's list of ops is what it has a lowering for: written out there, held against its table here."""

from __future__ import annotations

import quire_cpu.plugin
import quire_torch.plugin
import quire_tpu.plugin
from quire_cpu.native_ops import LOWERINGS
from quire_torch.lowering import KERNELS

TORCH_BUILT = {"rotary", "rotary_cache_write", "cache_write", "paged_attention"}
"""Ops that `TorchLowering.kernel` builds itself, since they need the step."""


def test_cpu() -> None:
    declared = quire_cpu.plugin.CAPABILITIES
    assert declared.ops | declared.fused_ops == LOWERINGS.keys()


def test_torch() -> None:
    declared = quire_torch.plugin.CAPABILITIES
    assert declared.ops | declared.fused_ops == KERNELS.keys() | TORCH_BUILT


def test_tpu() -> None:
    from quire_tpu.lowering import LOWERINGS as JAX_LOWERINGS

    declared = quire_tpu.plugin.quire_capabilities(device="tpu", options={"platform": "cpu"})
    assert declared.ops | declared.fused_ops == JAX_LOWERINGS.keys()


def test_nobody_lists_what_the_core_may_add() -> None:
    for plugin in (quire_cpu.plugin, quire_torch.plugin, quire_tpu.plugin):
        assert not {"PLAIN_OPS", "FUSED_OPS", "OP_FEATURES"} & vars(plugin).keys()
