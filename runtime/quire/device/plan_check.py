"""Refuses a plan that a device did not declare itself able to run, before anything is allocated."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from quire.device.capabilities import Capabilities
from quire.device.contract import ExecutorPlan
from quire.errors import BackendError
from quire.graph.op_spec import features_used
from quire.graph.ops import OPS


def check_plan(plan: ExecutorPlan, capabilities: Capabilities, device: str) -> None:
    """Raises BackendError that lists everything in the plan which the device's capabilities do not cover."""
    check_features(plan, capabilities, device)
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
    used = {
        feature
        for part in plan.model.parts()
        for node in part.graph.nodes
        for feature in features_used(OPS[node.op], node)
    }
    if missing := sorted(used - capabilities.op_features):
        raise BackendError(
            f"device {device} does not implement {', '.join(missing)}",
            because="the model needs it, and the backend does not declare it",
            hint="a newer version of the backend, or another --device",
        )


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
