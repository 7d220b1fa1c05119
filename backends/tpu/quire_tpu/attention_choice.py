"""Which attention a plan gets: the Pallas kernel on TPUs; plain XLA elsewhere and for heads that do not suit it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from quire.device.contract import ExecutorPlan
from quire.errors import ConfigError
from quire.graph.op_spec import features_used
from quire.graph.ops import OPS
from quire_tpu.attention import paged_attention
from quire_tpu.lowering import Attention
from quire_tpu.options import TpuOptions


@dataclass(frozen=True, slots=True)
class AttentionChoice:
    """What computes `paged_attention`.

    Attributes:
        remark: for the placement table, why it is not the kernel that this device is faster with; "" = it is.
    """

    function: Attention
    remark: str = ""


def choose_attention(plan: ExecutorPlan, options: TpuOptions) -> AttentionChoice:
    """The function for `paged_attention`. The Pallas kernel knows neither attention sinks nor ALiBi.

    Raises: ConfigError when the kernel is asked for by name, and the model needs those, or, on a TPU, the plan's heads
        or blocks do not fit it.
    """
    on_tpu = options.platform == "tpu"
    if options.attention == "jnp" or (options.attention == "auto" and not on_tpu):
        return AttentionChoice(paged_attention)
    unfit = _unfit(plan, on_tpu=on_tpu)
    if unfit is None:
        from quire_tpu.kernels.ragged_paged_attention import ragged_paged_attention

        return AttentionChoice(ragged_paged_attention if on_tpu else partial(ragged_paged_attention, interpret=True))
    what, because, hint = unfit
    if options.attention == "pallas":
        raise ConfigError(f"attention=pallas{what}", because=because, hint=hint)
    return AttentionChoice(paged_attention, f"plain XLA, slower than the Pallas kernel: {because}")


def _unfit(plan: ExecutorPlan, *, on_tpu: bool) -> tuple[str, str, str] | None:
    """With what, why, and what to try instead, where the Pallas kernel cannot run the plan."""
    features = {
        feature
        for part in plan.model.parts()
        for node in part.graph.nodes
        if node.op == "paged_attention"
        for feature in features_used(OPS[node.op], node)
    }
    if features:
        return "", f"the kernel does not know {', '.join(sorted(features))}", "--tpu-attention auto"
    from quire_tpu.kernels.ragged_paged_attention import fits

    head_dims = {array.shape[-1].evaluate({}) for group in plan.model.kv_groups.values() for array in group.arrays}
    if on_tpu and not all(fits(head_dim, plan.block_size, plan.kv_dtype) for head_dim in head_dims):
        return (
            f" with heads of {sorted(head_dims)} and blocks of {plan.block_size}",
            "the kernel takes head sizes that are multiples of 128 and blocks of whole tiles",
            "--tpu-attention auto, or --block-size 32",
        )
    return None
