"""What a plan shows to a plugin of an older contract: the nodes that its version promised."""

from __future__ import annotations

from dataclasses import replace

from quire.device.contract import ExecutorPlan
from quire.graph.ir import Graph, Node
from quire.graph.op_spec import args_of_node
from quire.graph.ops import OPS
from quire.graph.rewrite import map_graphs

SHOWN_UP_TO = (1, 1)
_SHOWN = {"paged_attention": frozenset({"sinks", "alibi"})}
"""Features that a node always had, used or not, up to contract 1.1."""


def plan_for(contract: tuple[int, int], plan: ExecutorPlan) -> ExecutorPlan:
    """The plan as a plugin of that contract expects it; the same object for a contract of today."""
    if contract > SHOWN_UP_TO:
        return plan
    return replace(plan, model=map_graphs(plan.model, _show_features))


def _show_features(graph: Graph) -> Graph:
    return replace(graph, nodes=tuple(_shown(graph, node) if node.op in _SHOWN else node for node in graph.nodes))


def _shown(graph: Graph, node: Node) -> Node:
    spec = OPS[node.op]
    newer = replace(spec, features=tuple(name for name in spec.features if name not in _SHOWN[node.op]))
    return newer.node(args_of_node(spec, graph, node), node.outputs)
