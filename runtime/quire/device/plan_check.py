"""Refuses a plan that a device did not declare itself able to run, before anything is allocated."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from quire.device.capabilities import Capabilities
from quire.device.contract import ExecutorPlan
from quire.errors import BackendError
from quire.graph.ir import Graph, Node, Part
from quire.graph.op_spec import features_used
from quire.graph.ops import OPS


def check_plan(plan: ExecutorPlan, capabilities: Capabilities, device: str) -> None:
    """Raises BackendError that lists everything in the plan which the device's capabilities do not cover.

    For executors that run the whole graph themselves: each op of it must be declared.
    """
    check_ops(plan, capabilities, device, lent=False)
    check_features(plan, capabilities, device)
    check_limits(plan, capabilities, device)


def check_limits(plan: ExecutorPlan, capabilities: Capabilities, device: str) -> None:
    """Raises BackendError that lists the dtypes, formats and sizes of the plan which the device did not declare."""
    problems = list(_problems(plan, capabilities))
    if problems:
        raise BackendError(
            f"device {device} cannot run this plan: {'; '.join(problems)}",
            because="its declared capabilities do not cover it",
            hint="values from `quire devices`, or another --device",
        )


def check_features(plan: ExecutorPlan, capabilities: Capabilities, device: str) -> None:
    """Raises BackendError when the graph uses an operand or attribute of an op that the device did not declare.

    A backend written before it existed would take the node and leave it out.
    """
    needed = ((feature, part) for part, node in _nodes(plan) for feature in features_used(OPS[node.op], node))
    _refuse_missing(device, needed, capabilities.op_features, "op_features")


def check_ops(plan: ExecutorPlan, capabilities: Capabilities, device: str, *, lent: bool = True) -> None:
    """Raises BackendError that names each op of the graph which the device does not declare, and who needs it.

    A device that declares no op at all runs no graph, as the fake device does; none is asked of it.

    Args:
        lent: leave out what a device may have that does not declare it: the ops that the reference can run in its
            place (no cache, no quantized weight, a plan that is not strict), and fused ops, which passes make only for
            devices that ask for them. `GraphExecutor` looks at those itself; other executors have no such help.
    """
    if not capabilities.ops:
        return
    needed = ((node.op, part) for part, node in _nodes(plan) if not (lent and _may_be_had(node, part.graph, plan)))
    _refuse_missing(device, needed, capabilities.ops | capabilities.fused_ops, "ops")


def can_be_lent(node: Node, graph: Graph) -> bool:
    """Whether the reference can run a node for a device: it knows neither its caches nor its quantized weights."""
    cached = any(v >= 0 and graph.values[v].dtype == "cache" for v in (*node.inputs, *node.outputs))
    return not cached and all(not name or graph.weights[name].scheme == "plain" for name in node.weights)


def _may_be_had(node: Node, graph: Graph, plan: ExecutorPlan) -> bool:
    return bool(OPS[node.op].fused_from) or (not plan.strict and can_be_lent(node, graph))


def _nodes(plan: ExecutorPlan) -> Iterator[tuple[Part, Node]]:
    return ((part, node) for part in plan.model.parts() for node in part.graph.nodes)


def _refuse_missing(device: str, needed: Iterable[tuple[str, Part]], declared: frozenset[str], what: str) -> None:
    needed_by: dict[str, dict[str, None]] = {}
    for name, part in needed:
        if name not in declared:
            needed_by.setdefault(name, {})[part.prefix.rstrip(".")] = None
    if needed_by:
        missing = ", ".join(f"{name} (needed by {_some(list(parts))})" for name, parts in sorted(needed_by.items()))
        raise BackendError(
            f"device {device} does not implement {missing}",
            because=f"the model needs it, and the backend does not declare it in Capabilities.{what}",
            hint="a newer version of the backend, or another --device",
        )


def _some(parts: list[str]) -> str:
    return f"{parts[0]} and {len(parts) - 1} more parts" if len(parts) > 2 else " and ".join(parts)


def _problems(plan: ExecutorPlan, capabilities: Capabilities) -> Iterator[str]:
    yield from _unless_in("weight dtype", plan.weight_dtype, capabilities.weight_dtypes)
    yield from _unless_in("activation dtype", plan.act_dtype, capabilities.act_dtypes)
    yield from _unless_in("KV dtype", plan.kv_dtype, capabilities.kv_dtypes)
    yield from _unless_in("block size", plan.block_size, capabilities.block_sizes)
    for kind in sorted({group.kind for group in plan.model.kv_groups.values()}):
        yield from _unless_in("KV group kind", kind, sorted(capabilities.group_kinds))
    for scheme in sorted({w.scheme for part in plan.model.parts() for w in part.graph.weights.values()}):
        yield from _unless_in("weight scheme", scheme, sorted(capabilities.weight_schemes))
    if plan.parallel.world_size > capabilities.max_tp:
        yield f"tensor parallel degree {plan.parallel.world_size} (most is {capabilities.max_tp})"
    yield from _over("max_num_batched_tokens", plan.max_num_batched_tokens, capabilities.max_num_batched_tokens)
    yield from _over("max_num_seqs", plan.max_num_seqs, capabilities.max_num_seqs)


def _unless_in(what: str, value: object, known: Iterable[object]) -> Iterator[str]:
    choices = tuple(known)
    if value not in choices:
        yield f"{what} {value} (it has {', '.join(map(str, choices)) or 'none'})"


def _over(what: str, value: int, most: int | None) -> Iterator[str]:
    if most is not None and value > most:
        yield f"{what} {value} (most is {most})"
