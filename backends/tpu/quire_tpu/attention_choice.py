"""Which attention a plan gets: the Pallas kernel on TPUs; plain XLA elsewhere and for heads that do not suit it."""

from __future__ import annotations

from functools import partial

from quire.device.contract import ExecutorPlan
from quire.errors import ConfigError
from quire.graph.op_spec import features_used
from quire.graph.ops import OPS
from quire_tpu.attention import paged_attention
from quire_tpu.lowering import Attention
from quire_tpu.options import TpuOptions


def choose_attention(plan: ExecutorPlan, options: TpuOptions) -> Attention:
    """The function for `paged_attention`. The Pallas kernel knows neither attention sinks nor ALiBi.

    Raises: ConfigError when the kernel is asked for by name, and the model needs those, or, on a TPU, the plan's heads
        or blocks do not fit it.
    """
    features = {feature for part in plan.model.parts() for node in part.graph.nodes if node.op == "paged_attention"
                for feature in features_used(OPS[node.op], node)}
    if features:
        if options.attention == "pallas":
            raise ConfigError("attention=pallas", because=f"the kernel does not know {', '.join(sorted(features))}",
                              try_="--tpu-attention auto")
        return paged_attention
    if options.attention == "jnp" or (options.attention == "auto" and options.platform != "tpu"):
        return paged_attention
    from quire_tpu.kernels.ragged_paged_attention import fits, ragged_paged_attention

    if options.platform != "tpu":
        return partial(ragged_paged_attention, interpret=True)
    head_dims = {array.shape[-1].evaluate({}) for group in plan.model.kv_groups.values() for array in group.arrays}
    if all(fits(head_dim, plan.block_size, plan.kv_dtype) for head_dim in head_dims):
        return ragged_paged_attention
    if options.attention == "pallas":
        raise ConfigError(f"attention=pallas with heads of {sorted(head_dims)} and blocks of {plan.block_size}",
                          because="the kernel takes head sizes that are multiples of 128 and blocks of whole tiles",
                          try_="--tpu-attention auto, or --block-size 32")
    return paged_attention
