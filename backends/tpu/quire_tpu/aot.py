"""Compiles whole steps for TPUs that are not here, and shows that the KV cache is updated in place.

    python -m quire_tpu.aot [--topology v5e:2x2] [--case qwen3-0.6b-decode] [--json | --markdown]

It needs jax and libtpu, no TPU, no network and no checkpoint. Exit status 1 when a step does not compile, does not fit
the chip, copies its cache, or copies weights where that is not known of the chip.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, use_abstract_mesh

from quire.device.contract import ExecutorPlan, ParallelRank
from quire.device.dtypes import numpy_dtype
from quire.device.step_vector import StepShape
from quire.graph.ir import Part, Weight
from quire.graph.passes import optimize
from quire.graph.shapes import concrete
from quire.graph.shard import shard
from quire.models import build_model_from_config
from quire_tpu.attention_choice import choose_attention
from quire_tpu.kv_storage import storage_shapes
from quire_tpu.options import TpuOptions
from quire_tpu.plugin import quire_capabilities
from quire_tpu.program import StepProgram

TOPOLOGIES = ("v5e:2x2", "v5p:2x2x1", "v6e:2x2", "tpu7x:2x2x1")
"""One host of each chip that is compiled for."""

_NAMES = frozenset({"parameter", "get-tuple-element", "bitcast"})
"""Instructions that give an array that is there already."""

_IN_PLACE = _NAMES | {"scatter", "dynamic-update-slice", "fusion", "while"}
"""Instructions that may give an array as large as the cache: names for it, and writes into it."""

_LARGE_WEIGHT = 2**24
"""Bytes from which on a weight may not be copied; small ones may be, to be read faster afterwards."""

_KNOWN_COPIES = {
    ("TPU7x", True): "stacked weights are copied in every step, as XLA drops the tiles of arguments cut over chips",
}
"""(Chip, several ranks) -> why weights are copied there; a case that does not copy them any more fails."""

_BLOCK, _MAX_LEN = 32, 4096
_QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "vocab_size": 151936,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
    "max_position_embeddings": 40960,
    "dtype": "bfloat16",
}
_GEMMA2 = {
    "architectures": ["Gemma2ForCausalLM"],
    "model_type": "gemma2",
    "vocab_size": 256000,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e4,
    "hidden_activation": "gelu_pytorch_tanh",
    "sliding_window": 4096,
    "query_pre_attn_scalar": 256,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "max_position_embeddings": 8192,
    "dtype": "bfloat16",
}


@dataclass(frozen=True, slots=True)
class AotCase:
    """A step to compile: a model's shape, a bucket, blocks of KV per pool, ranks."""

    name: str
    config: Mapping[str, Any]
    tokens: int
    seqs: int
    num_blocks: int
    tp: int = 1


CASES = (
    AotCase("qwen3-0.6b-decode", _QWEN3, 64, 64, 1024),
    AotCase("qwen3-0.6b-mixed", _QWEN3, 512, 64, 1024),
    AotCase("qwen3-0.6b-decode-tp4", _QWEN3, 64, 64, 4096, tp=4),
    AotCase("gemma2-2b-decode", _GEMMA2, 64, 64, 1024),
)


@dataclass(frozen=True, slots=True)
class AotReport:
    """What the compiler said of one case, per chip.

    Attributes:
        problem: "" = it compiled, it fits, the cache is updated in place, weights are read where they lie.
        kernel: the attention kernel is in the program.
        known: what is wrong and known, with the reason.
    """

    case: str
    topology: str
    chip: str
    problem: str
    compile_s: float = 0.0
    argument_bytes: int = 0
    kv_bytes: int = 0
    temp_bytes: int = 0
    code_bytes: int = 0
    kernel: bool = False
    known: str = ""


def quiet_libtpu() -> None:
    """Tells libtpu that there is no host to ask and no chip to lock; before JAX loads it."""
    for name, value in (
        ("TPU_SKIP_MDS_QUERY", "1"),
        ("TPU_WORKER_HOSTNAMES", "localhost"),
        ("ALLOW_MULTIPLE_LIBTPU_LOAD", "1"),
    ):
        os.environ.setdefault(name, value)


def compile_case(case: AotCase, topology: str) -> AotReport:
    """Compiles one case for one chip; never raises on account of the compiler."""
    devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices[: case.tp]
    chip = devices[0].device_kind
    program = StepProgram(_plan(case), devices, choose_attention(_plan(case), TpuOptions("tpu")).function)
    kv = storage_shapes(program.plan, {group.pool: case.num_blocks for group in program.plan.model.kv_groups.values()})
    kv_arrays = jax.tree.leaves(kv)
    kv_bytes = sum(map(_num_bytes, kv_arrays))
    start_s = time.monotonic()
    try:
        compiled = _compile(program, case, kv, devices[0])
    except Exception as error:
        return AotReport(case.name, topology, chip, " ".join(str(error).split())[:400], time.monotonic() - start_s)
    seconds, memory, text = time.monotonic() - start_s, compiled.memory_analysis(), compiled.as_text()
    weights = [
        array.shape[int(case.tp > 1) :]
        for array in jax.tree.leaves(_weight_shapes(program))
        if _num_bytes(array) >= _LARGE_WEIGHT * case.tp
    ]
    problem = kv_problem(
        text, [array.shape for array in kv_arrays], memory.temp_size_in_bytes, max(map(_num_bytes, kv_arrays))
    )
    copied, known = weight_problem(text, weights), _KNOWN_COPIES.get((chip, case.tp > 1), "")
    if known and not copied:
        problem = problem or f"no weight is copied any more; take this out: {known}"
    elif not known:
        problem = problem or copied
    return AotReport(
        case.name,
        topology,
        chip,
        problem,
        round(seconds, 1),
        memory.argument_size_in_bytes,
        kv_bytes,
        memory.temp_size_in_bytes,
        memory.generated_code_size_in_bytes,
        "ragged_paged_attention" in text,
        known,
    )


def kv_problem(hlo: str, kv_shapes: Sequence[tuple[int, ...]], temp_bytes: int, largest: int) -> str:
    """Why the cache is not updated in place, "" where it is.

    Aliased arguments prove nothing: a cache that is copied inside the step has them too. So neither may the
    temporaries hold an array of the cache, nor an instruction make one that does not write in place. (A fusion is
    judged by the instructions inside it, which the text has too.)

    Args:
        hlo: the compiled program. temp_bytes: of its temporaries. largest: bytes of the cache's largest array.
    """
    for shape, op in _made(hlo, kv_shapes):
        if op not in _IN_PLACE:
            return f"an array of the cache, [{shape}], is made by {op}"
    if temp_bytes >= largest:
        return f"temporaries of {temp_bytes} bytes could hold an array of the cache ({largest} bytes)"
    return ""


def weight_problem(hlo: str, weight_shapes: Sequence[tuple[int, ...]]) -> str:
    """Which weight is not read where it lies, "" = all are.

    Nothing may be made of a weight's shape: that would read and write it once more in every step. (Inside a fusion
    something may have its shape; it is not stored.)
    """
    for shape, op in _made(_stored(hlo), weight_shapes):
        if op not in _NAMES:
            return f"a weight, [{shape}], is copied in every step, by {op}"
    return ""


def _made(hlo: str, shapes: Sequence[tuple[int, ...]]) -> list[tuple[str, str]]:
    """(dimensions, instruction) of everything in main memory that has one of the shapes, or one with a leading 1."""
    known = {",".join(map(str, dims)) for shape in shapes for dims in (shape, (1, *shape))}
    pattern = re.compile(r"= \w+\[(" + "|".join(sorted(known)) + r")\](\{[^}]*\})? ([\w-]+)\(")
    return [(shape, op) for shape, layout, op in pattern.findall(hlo) if "S(1)" not in layout] if known else []


def _stored(hlo: str) -> str:
    """The program without the insides of its fusions: what is left are the instructions whose results are stored."""
    fused = set(re.findall(r" fusion\(.*calls=(%[\w.-]+)", hlo))
    return "\n".join(text for text in hlo.split("\n\n") if text.lstrip().partition(" ")[0] not in fused)


def _num_bytes(array: Any) -> int:
    return int(np.prod(array.shape)) * int(array.dtype.itemsize)


def _plan(case: AotCase) -> ExecutorPlan:
    fused_ops = quire_capabilities("tpu", {"platform": "tpu"}).fused_ops
    graph = optimize(build_model_from_config(case.config).graph, fused_ops)
    return ExecutorPlan(
        model=shard(graph, case.tp),
        weight_dtype="bfloat16",
        act_dtype="bfloat16",
        kv_dtype="bfloat16",
        block_size=_BLOCK,
        max_model_len=_MAX_LEN,
        max_num_batched_tokens=case.tokens,
        max_num_seqs=case.seqs,
        max_logits_rows=case.seqs,
        parallel=ParallelRank(world_size=case.tp),
    )


def _compile(program: StepProgram, case: AotCase, kv: Any, device: Any) -> Any:
    ranked, same = program.sharding(by_rank=True), program.sharding(by_rank=False)

    def by_rank(spec: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(_of_ranks(program, spec.shape), spec.dtype, sharding=ranked)

    def on_all(shape: Sequence[int], dtype: Any = np.int32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(tuple(shape), dtype, sharding=same)

    weights = _weight_shapes(program)
    weights["rope"] = [tuple(on_all(table.shape, table.dtype) for table in tables) for tables in program.rope_tables()]
    shape = StepShape(
        case.tokens, case.seqs, _MAX_LEN // _BLOCK, case.seqs, case.seqs, tuple(sorted(program.plan.model.kv_groups))
    )
    kind = AbstractDevice(device_kind=device.device_kind, num_cores=device.num_cores, platform="tpu")
    alone = AbstractMesh((1,), ("_",), (AxisType.Auto,), abstract_device=kind)
    with use_abstract_mesh(alone if program.mesh is None else program.mesh.abstract_mesh):  # names the chip to Pallas
        lowered = program.step.lower(
            weights,
            jax.tree.map(by_rank, kv),
            on_all((case.seqs,)),
            on_all((shape.layout().size,)),
            shape=shape,
            mode="draw",
            keep=False,
            more=False,
        )
    return lowered.compile()


def _of_ranks(program: StepProgram, shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape if program.world_size == 1 else (program.world_size, *shape)


def _weight_shapes(program: StepProgram) -> dict[str, Any]:
    """The program's weights as shapes, where and as they would lie, without the rotary tables."""
    plan, sizes = program.plan, program.plan.model.axis_sizes()

    def spec(weight: Weight, repeats: int) -> jax.ShapeDtypeStruct:
        dtype = numpy_dtype("float32" if weight.keep_f32 else plan.weight_dtype)
        shape = concrete(weight.shape, sizes)
        return jax.ShapeDtypeStruct(
            _of_ranks(program, shape if repeats == 1 else (repeats, *shape)),
            dtype,
            sharding=program.weight_format(len(shape), repeats, dtype),
        )

    def bound(part: Part, repeats: int = 1) -> dict[str, jax.ShapeDtypeStruct]:
        return {name: spec(weight, repeats) for name, weight in part.graph.weights.items()}

    return {
        "embed": bound(plan.model.embed),
        "segments": [
            [bound(segment.layers[body], segment.repeats) for body in range(segment.period)]
            for segment in program.segments
        ],
        "heads": {name: bound(head) for name, head in plan.model.heads.items()},
    }


def _markdown(reports: Sequence[AotReport]) -> str:
    mib = 2**20
    lines = [
        "| step | chip | arguments, MiB | of them KV, MiB | temporary, MiB | code, MiB | compiled, s | copies |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r.case} | {r.chip} | {r.argument_bytes / mib:.0f} | {r.kv_bytes / mib:.0f} | {r.temp_bytes / mib:.1f}"
        f" | {r.code_bytes / mib:.1f} | {r.compile_s:.0f} | {r.problem or r.known or 'none'} |"
        for r in reports
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0 = every case compiled and updates its cache in place."""
    parser = argparse.ArgumentParser(prog="python -m quire_tpu.aot", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--topology", action="append", help=f"default: {', '.join(TOPOLOGIES)}")
    parser.add_argument("--case", action="append", choices=[case.name for case in CASES])
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true")
    form.add_argument("--markdown", action="store_true")
    chosen = parser.parse_args(arguments)
    reports = []
    for topology in chosen.topology or TOPOLOGIES:
        for case in CASES:
            if not chosen.case or case.name in chosen.case:
                reports.append(compile_case(case, topology))
                if not chosen.json and not chosen.markdown:
                    print(json.dumps(asdict(reports[-1])), flush=True)
    if chosen.json:
        print(json.dumps([asdict(report) for report in reports], indent=2))
    if chosen.markdown:
        print(_markdown(reports))
    return 1 if any(report.problem for report in reports) else 0


if __name__ == "__main__":
    quiet_libtpu()
    jax.config.update("jax_platforms", "cpu")
    sys.exit(main())
