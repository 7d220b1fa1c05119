"""Device-neutral passes over a model's graph."""

from __future__ import annotations

from quire.graph.ir import ModelGraph
from quire.graph.passes.add_rms_norm import fuse_add_rms_norm
from quire.graph.passes.assign_schemes import assign_schemes
from quire.graph.passes.merge_linears import merge_linears
from quire.graph.passes.rotary_cache_write import fuse_rotary_cache_write
from quire.graph.passes.rotate import rotate
from quire.graph.passes.verify import verify
from quire.graph.rewrite import map_graphs
from quire.graph.shard import cut_axes

__all__ = [
    "assign_schemes",
    "fuse_add_rms_norm",
    "fuse_rotary_cache_write",
    "merge_linears",
    "optimize",
    "rotate",
    "verify",
]


def optimize(model: ModelGraph, fused_ops: frozenset[str], *, merge: bool = True) -> ModelGraph:
    """The model as a device wants it: passes fire only for the fused ops that it declares.

    Args:
        fused_ops: `Capabilities.fused_ops`.
        merge: join linears that share an input (False keeps one linear per checkpoint tensor, for instance
            where LoRA is added to single projections).
    Raises: InternalError when a pass left the graph inconsistent.
    """
    if merge:
        cuttable = cut_axes(model.axes)
        model = map_graphs(model, lambda graph: merge_linears(graph, cuttable))
    if "add_rms_norm" in fused_ops:
        model = map_graphs(rotate(model), fuse_add_rms_norm)
    if "rotary_cache_write" in fused_ops:
        model = map_graphs(model, fuse_rotary_cache_write)
    verify(model)
    return model
