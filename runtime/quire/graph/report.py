"""What `quire inspect MODEL` prints: the graph by layer, what it costs, and how much KV fits in a memory.

`inspect_model` gives plain data for JSON; `report_lines` is the same for people.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from quire.errors import ConfigError
from quire.graph.cost import (
    Cost,
    Dtypes,
    SchemeTotal,
    Step,
    decode_cost,
    node_cost,
    part_cost,
    prefill_cost,
    scheme_totals,
    weight_totals,
)
from quire.graph.ir import Graph, ModelGraph, Node, Part, dims_text
from quire.graph.kv_budget import bytes_per_block, fit_kv_blocks, kv_bytes_per_token, kv_pools, pool_block_bytes
from quire.graph.memory import plan_arena
from quire.graph.segments import segments
from quire.graph.shapes import num_elements

PREFILL_TOKENS = 512
"""Prompt length for which prefill is stated."""


def inspect_model(
    model: ModelGraph,
    *,
    dtypes: Dtypes | None = None,
    block_size: int = 16,
    context: int = 1024,
    max_model_len: int = 4096,
    max_num_seqs: int = 256,
    max_num_batched_tokens: int = 2048,
    max_logits_rows: int = 256,
    memory_bytes: int | None = None,
) -> dict[str, Any]:
    """A model's graph in numbers, as plain data.

    Args:
        dtypes: of weights, activations and KV; None = bfloat16 for all.
        context: KV tokens at which a decode step is stated.
        max_model_len, max_num_seqs, max_num_batched_tokens, max_logits_rows: limits, for the arena and the KV blocks.
        memory_bytes: device memory for weights, activations and KV; None leaves the KV fit out.
    """
    dtypes = dtypes or Dtypes()
    step = Step(1, 1, 1, context)
    parameters, num_weight_bytes = weight_totals(model, dtypes.weight, dtypes.scheme_bits)
    limits = {**model.axis_sizes(), "T": max_num_batched_tokens, "S": max_num_seqs, "L": max_logits_rows}
    act_bytes = {dtype: int(dtypes.value_bytes(dtype)) for dtype in ("act", "f32", "i32", "bool")}
    arena = plan_arena([part.graph for part in model.parts()], limits, dtype_bytes=act_bytes)  # type: ignore[arg-type]
    prefill = prefill_cost(model, PREFILL_TOKENS, dtypes)
    found: dict[str, Any] = {
        "parameters": parameters,
        "dtypes": asdict(dtypes),
        "axes": {
            name: {"size": axis.size, "full_size": axis.full_size, "policy": axis.policy}
            for name, axis in model.axes.items()
        },
        "num_layers": len(model.layers),
        "segments": [list(segment) for segment in segments(model.layers)],
        "parts": [_part_entry(model, part, times, step, dtypes) for part, times in _folded(model)],
        "bytes": {"weights": num_weight_bytes, "activations": arena.total_bytes},
        "schemes": {name: asdict(total) for name, total in scheme_totals(model, dtypes).items()},
        "limits": {
            "max_model_len": max_model_len,
            "max_num_seqs": max_num_seqs,
            "max_logits_rows": max_logits_rows,
            "max_num_batched_tokens": max_num_batched_tokens,
            "block_size": block_size,
        },
        "decode": {"context": context, **_cost_entry(decode_cost(model, context, dtypes))},
        "prefill": {
            "num_tokens": PREFILL_TOKENS,
            "flops_per_token": prefill.flops // PREFILL_TOKENS,
            **_cost_entry(prefill),
        },
        "kv": _kv_entry(model, block_size, dtypes.kv),
    }
    if memory_bytes is not None:
        found["fit"] = _fit_entry(model, memory_bytes, num_weight_bytes + arena.total_bytes, found["limits"], dtypes.kv)
    return found


def report_lines(found: Mapping[str, Any]) -> list[str]:
    """`inspect_model`'s result for people."""
    lines = [
        f"parameters  {found['parameters']:,}   layers {found['num_layers']} = "
        + " + ".join(f"{repeats} x {period}" for period, repeats in found["segments"]),
        "axes        " + "  ".join(f"{name}={_axis_text(axis)}" for name, axis in found["axes"].items()),
    ]
    for part in found["parts"]:
        times = f" (x{part['times']})" if part["times"] > 1 else ""
        lines += ["", f"{part['name']}{times}: {part['parameters']:,} parameters, {_flops(part['flops'])} per token"]
        width = max(len(node["op"]) for node in part["nodes"])
        lines += [_node_line(node, width) for node in part["nodes"]]
    decode, prefill, kv, limits = found["decode"], found["prefill"], found["kv"], found["limits"]
    lines += [
        "",
        f"weights       {_bytes(found['bytes']['weights'])} as "
        + schemes_text(
            {name: SchemeTotal(**total) for name, total in found["schemes"].items()}, found["dtypes"]["weight"]
        ),
        f"activations   {_bytes(found['bytes']['activations'])} at {limits['max_num_batched_tokens']} tokens a step",
        f"decode        {_bytes(decode['total_bytes'])} and {_flops(decode['flops'])} per token"
        f" at {decode['context']} tokens of context"
        f" ({_bytes(decode['weight_bytes'])} weights, {_bytes(decode['kv_bytes'])} KV)",
        f"prefill       {_flops(prefill['flops_per_token'])} per token for a prompt of {prefill['num_tokens']} tokens",
        f"KV            {_bytes(kv['bytes_per_token'])} per token as {found['dtypes']['kv']}",
    ]
    for name, pool in kv["pools"].items():
        lines.append(
            f"  pool {name}: {', '.join(pool['groups'])}; {_bytes(pool['block_bytes'])} per block of"
            f" {limits['block_size']} tokens"
        )
    return lines + _fit_lines(found["fit"], limits) if "fit" in found else lines


def schemes_text(totals: Mapping[str, SchemeTotal], weight_dtype: str) -> str:
    """`bfloat16`, or with quantized weights `int4_g32 (197 weights, 310 MiB), bfloat16 (113 weights, 3 MiB)`."""
    if set(totals) == {"plain"}:
        return weight_dtype
    return ", ".join(
        f"{weight_dtype if name == 'plain' else name} ({total.num_weights} weights, {_bytes(total.num_bytes)})"
        for name, total in totals.items()
    )


def _folded(model: ModelGraph) -> list[tuple[Part, int]]:
    """Parts with equal layers folded: one body for each layer of a period, with its repeats."""
    parts, start = [(model.embed, 1)], 0
    for period, repeats in segments(model.layers):
        parts += [(layer, repeats) for layer in model.layers[start : start + period]]
        start += period * repeats
    return parts + [(head, 1) for head in model.heads.values()]


def _part_entry(model: ModelGraph, part: Part, times: int, step: Step, dtypes: Dtypes) -> dict[str, Any]:
    sizes = model.axis_sizes()
    return {
        "name": part.prefix.rstrip("."),
        "times": times,
        "parameters": sum(num_elements(w.shape).evaluate(sizes) for w in part.graph.weights.values()),
        "caches": {name: {"group": ref.group, "slot": ref.slot} for name, ref in part.caches.items()},
        **_cost_entry(part_cost(model, part, step, dtypes)),
        "nodes": [_node_entry(model, part, node, step, dtypes) for node in part.graph.nodes],
    }


def _node_entry(model: ModelGraph, part: Part, node: Node, step: Step, dtypes: Dtypes) -> dict[str, Any]:
    graph = part.graph
    return {
        "op": node.op,
        "inputs": [_value_text(graph, value) for value in node.inputs if value >= 0],
        "outputs": [_value_text(graph, value) for value in node.outputs],
        "weights": {name: dims_text(graph.weights[name].shape) for name in node.weights if name},
        **_cost_entry(node_cost(model, part, node, step, dtypes)),
    }


def _value_text(graph: Graph, value: int) -> str:
    found = graph.values[value]
    return f"%{value}" if found.dtype == "cache" else f"%{value} {found.dtype}{dims_text(found.shape)}"


def _cost_entry(cost: Cost) -> dict[str, int]:
    return {**asdict(cost), "total_bytes": cost.total_bytes}


def _kv_entry(model: ModelGraph, block_size: int, kv_dtype: str) -> dict[str, Any]:
    sizes = model.axis_sizes()
    return {
        "bytes_per_token": kv_bytes_per_token(model, kv_dtype),
        "groups": {
            name: {
                "kind": group.kind,
                "window": group.window,
                "layers": group.layers,
                "pool": group.pool,
                "block_bytes": bytes_per_block(group, sizes, block_size, kv_dtype),
            }
            for name, group in model.kv_groups.items()
        },
        "pools": {
            pool: {"groups": list(groups), "block_bytes": pool_block_bytes(model, pool, block_size, kv_dtype)}
            for pool, groups in kv_pools(model).items()
        },
    }


def _fit_entry(
    model: ModelGraph, memory_bytes: int, fixed_bytes: int, limits: Mapping[str, int], kv_dtype: str
) -> dict[str, Any]:
    entry: dict[str, Any] = {"memory_bytes": memory_bytes, "kv_bytes": max(0, memory_bytes - fixed_bytes)}
    try:
        blocks = fit_kv_blocks(
            model,
            memory_bytes - fixed_bytes,
            block_size=limits["block_size"],
            kv_dtype=kv_dtype,
            max_model_len=limits["max_model_len"],
            max_num_seqs=limits["max_num_seqs"],
            max_num_batched_tokens=limits["max_num_batched_tokens"],
        )
    except ConfigError as error:
        return {**entry, "blocks": {}, "error": str(error)}
    return {**entry, "blocks": blocks, "error": ""}


def _fit_lines(fit: Mapping[str, Any], limits: Mapping[str, int]) -> list[str]:
    lines = [f"in {_bytes(fit['memory_bytes'])}: {_bytes(fit['kv_bytes'])} for KV"]
    lines += [
        f"  pool {pool}: {blocks:,} blocks = {blocks * limits['block_size']:,} tokens"
        for pool, blocks in fit["blocks"].items()
    ]
    return lines + [f"  {line}" for line in fit["error"].splitlines()]


def _node_line(node: Mapping[str, Any], width: int) -> str:
    operands = ", ".join([*node["inputs"], *(f"{name} {shape}" for name, shape in node["weights"].items())])
    cost = f"  {_flops(node['flops'])}, {_bytes(node['total_bytes'])}" if node["total_bytes"] else ""
    return f"  {node['op']:<{width}}  {', '.join(node['outputs'])} <- {operands}{cost}"


def _axis_text(axis: Mapping[str, Any]) -> str:
    return str(axis["size"]) if axis["size"] == axis["full_size"] else f"{axis['size']} of {axis['full_size']}"


def _bytes(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} TiB"


def _flops(count: float) -> str:
    for unit in ("FLOP", "KFLOP", "MFLOP", "GFLOP"):
        if count < 1000:
            return f"{count:.4g} {unit}"
        count /= 1000
    return f"{count:.4g} TFLOP"
