"""Deliberately broken backends: each is the reference with one fault of the kind that real backends have.

`BROKEN` maps a name to the plugin and to the cases that must catch it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from quire.device import (
    BackendError,
    Capabilities,
    ConfigError,
    DeviceReport,
    Executor,
    ExecutorPlan,
    GraphExecutor,
    Kernel,
    KVPlan,
    MemoryReport,
    StepBatch,
    hookimpl,
)
from quire.graph.ir import Graph, Node
from quire.reference import REFERENCE
from quire.reference.device import CAPABILITIES, ReferenceLibrary
from quire.reference.lowering import lower_reference

HEALTHY = replace(
    CAPABILITIES,
    act_dtypes=("float32",),
    weight_dtypes=("float32",),
    kv_dtypes=("float32",),
    weight_schemes=frozenset({"plain", "int8", "int4_g32_zp"}),
    block_sizes=(16,),
    async_depth=2,
    fused_ops=frozenset({"add_rms_norm", "rotary_cache_write"}),
)
"""One dtype, one block size and two schemes, so that a run is short; two steps deep, so that feedback is tested."""


class Library(ReferenceLibrary):
    """The reference's ops under another name, so that no fallback is excused."""

    capabilities = HEALTHY
    name = "broken"


class Plugin:
    """A plugin module as an object; subclasses change one thing."""

    QUIRE_CONTRACT: ClassVar[Any] = CAPABILITIES.contract
    library: ClassVar[type[ReferenceLibrary]] = Library
    executor: ClassVar[Callable[..., Any]] = GraphExecutor
    capabilities: ClassVar[Capabilities] = HEALTHY

    @hookimpl
    def quire_probe(self, device: str, options: Mapping[str, str]) -> DeviceReport:
        return DeviceReport(available=True, name="a broken device", num_devices=1)

    @hookimpl
    def quire_capabilities(self, device: str, options: Mapping[str, str]) -> Capabilities:
        self.check(options)
        return self.capabilities

    @hookimpl
    def quire_create_executor(self, device: str, plan: ExecutorPlan) -> Executor:
        self.check(plan.options)
        library = self.library()
        library.capabilities = self.capabilities
        return type(self).executor(library, plan)

    def check(self, options: Mapping[str, str]) -> None:
        if options:
            raise ConfigError(f"no option {', '.join(options)}")


def with_op(
    op: str, function: Callable[..., Any] | None = None, *, without: Sequence[str] = (), **changed: Any
) -> type[Plugin]:
    """The reference with one op computed by another function, or with attributes changed or dropped."""

    class BrokenLibrary(Library):
        def lower(self, node: Node, graph: Graph, plan: ExecutorPlan) -> Kernel:
            attrs = {name: changed.get(name, value) for name, value in node.attrs if name not in without}
            if node.op != op:
                return lower_reference(node, graph, plan)
            if function is None:
                return lower_reference(replace(node, attrs=tuple(sorted(attrs.items()))), graph, plan)
            original = dict(REFERENCE)
            import quire.reference.lowering as lowering

            lowering.REFERENCE = {**original, op: function}  # type: ignore[assignment]
            try:
                return lower_reference(node, graph, plan)
            finally:
                lowering.REFERENCE = original  # type: ignore[assignment]

    return type("BrokenPlugin", (Plugin,), {"library": BrokenLibrary})


def with_executor(**methods: Any) -> type[Plugin]:
    """The reference with methods of its executor replaced."""
    return type("BrokenPlugin", (Plugin,), {"executor": type("BrokenExecutor", (GraphExecutor,), methods)})


# ---- ops ----------------------------------------------------------------------------------------------------


def _window_off_by_one(q: Any, cache: Any, sinks: Any = None, *, window: int = 0, **rest: Any) -> Any:
    return REFERENCE["paged_attention"](q, cache, sinks, window=window + 1 if window else 0, **rest)


def _leaves_sinks_out(q: Any, cache: Any, _: Any = None, **rest: Any) -> Any:
    return REFERENCE["paged_attention"](q, cache, **rest)


def _slopes_of_the_next_head(q: Any, cache: Any, sinks: Any = None, *, alibi_slopes: Any = None, **rest: Any) -> Any:
    turned = None if alibi_slopes is None else np.roll(alibi_slopes, 1)
    return REFERENCE["paged_attention"](q, cache, sinks, alibi_slopes=turned, **rest)


def _slot_off_by_one(cache: Any, k: Any, v: Any, *, slots: np.ndarray) -> Any:
    size = cache["k"].shape[1]
    return REFERENCE["cache_write"](cache, k, v, slots=slots - slots % size + (slots + 1) % size)


def _nan_leak(
    q: np.ndarray,
    cache: Any,
    sinks: Any = None,
    *,
    block_tables: Any,
    query_start_loc: Any,
    num_computed: Any,
    **rest: Any,
) -> Any:
    """Masks scores, then multiplies whole blocks of values by zeros."""
    out = REFERENCE["paged_attention"](
        q, cache, sinks, block_tables=block_tables, query_start_loc=query_start_loc, num_computed=num_computed, **rest
    ).copy()
    size = cache["v"].shape[1]
    for s, table in enumerate(block_tables):
        start, end = int(query_start_loc[s]), int(query_start_loc[s + 1])
        num_blocks = -(-(int(num_computed[s]) + end - start) // size)
        values = np.concatenate([cache["v"][block] for block in table[:num_blocks] if block >= 0])
        out[start:end] += np.float32(0.0) * values.astype(np.float32).sum()
    return out


def _stale_pages(
    q: np.ndarray, cache: Any, sinks: Any = None, *, block_tables: np.ndarray, window: int = 0, **rest: Any
) -> Any:
    """Does not know -1: reads what was freed as if it were block 0, a little."""
    out = REFERENCE["paged_attention"](q, cache, sinks, block_tables=block_tables, window=window, **rest)
    freed = (block_tables < 0).any()
    return out + np.float32(0.1) * cache["v"][0, 0, 0, 0] if freed and window else out


def _swaps_an_expert(logits: np.ndarray, **attrs: Any) -> Any:
    """One token of a step goes to the expert behind the last one chosen."""
    ids, weights = REFERENCE["route_experts"](logits, **attrs)
    ids = ids.copy()
    ids[0, -1] = np.argsort(-logits[0], kind="stable")[attrs["k"]]
    return ids, weights


def _forgets_the_bias(x: np.ndarray, bias: np.ndarray | None = None, *, world_size: int = 1) -> np.ndarray:
    return x


def _keeps_the_padding(x: np.ndarray, *, axis: int, size: int, world_size: int = 1) -> np.ndarray:
    """Rotated by the padding: the first entries are not the first piece's."""
    return np.roll(x, 1, axis=axis)[..., :size] if x.shape[axis] != size else x


def _sum_depends_on_batch(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None, *, out_dtype: str = "act"
) -> np.ndarray:
    """One matrix product for the whole batch, split in two where it is large."""
    half = x.shape[-1] // 2
    if x.shape[0] < 12:
        out = REFERENCE["linear"](x, weight, None, out_dtype="f32")
    else:
        out = REFERENCE["linear"](
            np.ascontiguousarray(x[:, :half]), weight[:, :half], None, out_dtype="f32"
        ) + REFERENCE["linear"](np.ascontiguousarray(x[:, half:]), weight[:, half:], None, out_dtype="f32")
    return out if bias is None else out + bias


_calls = [0]


def _sum_depends_on_time(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None, *, out_dtype: str = "act"
) -> np.ndarray:
    """As atomics do: another order of additions at every call."""
    _calls[0] += 1
    order = np.random.default_rng(_calls[0]).permutation(x.shape[-1])
    return REFERENCE["linear"](np.ascontiguousarray(x[:, order]), weight[:, order], bias, out_dtype=out_dtype)


# ---- executors ----------------------------------------------------------------------------------------------


def _submit_changed(change: Callable[[Any, StepBatch], StepBatch]) -> type[Plugin]:
    return with_executor(submit=lambda self, batch: GraphExecutor.submit(self, change(self, batch)))


def _lost_feedback(self: Any, batch: StepBatch) -> StepBatch:
    """Takes the token of the same row, as if rows never moved."""
    rows = np.where(batch.prev_row >= 0, np.arange(batch.num_seqs) % (batch.prev_row.max(initial=0) + 1), -1)
    return replace(batch, prev_row=rows.astype(np.int32))


def _stale_tables(self: Any, batch: StepBatch) -> StepBatch:
    """Keeps a row's block table as long as the number of rows stays; sequences that ended are not noticed."""
    kept = getattr(self, "_kept_tables", None)
    shapes = {name: group.block_tables.shape for name, group in batch.groups.items()}
    if kept is not None and {name: group.block_tables.shape for name, group in kept.items()} == shapes:
        batch = replace(batch, groups=kept)
    self._kept_tables = batch.groups
    return batch


_kept_forever: list[Any] = []


def _keeps_every_allocation(self: Any, plan: KVPlan) -> None:
    GraphExecutor.allocate_kv(self, plan)
    _kept_forever.append(self._cache)


def _reports_double(self: Any, weights: Any, progress: Any) -> MemoryReport:
    report = GraphExecutor.load(self, weights, progress)
    return replace(report, bytes_by_purpose={"weights": 2 * report.bytes_by_purpose["weights"]})


def _writes_reversed(self: Any, group: str, block_ids: Any, pages: Any) -> None:
    reversed_pages = {name: np.asarray(page)[:, :, ::-1] for name, page in pages.items()}
    GraphExecutor.write_blocks(self, group, block_ids, reversed_pages)


def _swaps_keys_and_values(self: Any, group: str, block_ids: Any) -> Any:
    pages = GraphExecutor.read_blocks(self, group, block_ids)
    return {"k": pages["v"], "v": pages["k"]}


def _second_best(self: Any, batch: StepBatch) -> Any:
    """Tokens one beside the drawn one."""
    pending = GraphExecutor.submit(self, batch)
    finish = pending.result

    class Off:
        def result(self) -> Any:
            result = finish()
            return replace(result, tokens=(result.tokens + 1) % 131)

    return Off()


class HalfPrecision(with_op("route_experts", _swaps_an_expert)):  # type: ignore[misc]
    """Sends one token of a step to a wrong expert, in bfloat16 only, where errors are allowed to be large."""

    capabilities = replace(HEALTHY, act_dtypes=("bfloat16",), weight_dtypes=("bfloat16",), kv_dtypes=("bfloat16",))


# ---- claims -------------------------------------------------------------------------------------------------


class _FallsBack(Library):
    def lower(self, node: Node, graph: Graph, plan: ExecutorPlan) -> Kernel | None:  # type: ignore[override]
        return None if node.op == "experts" else lower_reference(node, graph, plan)


class _NotStrict(GraphExecutor):
    def __init__(self, library: Any, plan: ExecutorPlan) -> None:
        super().__init__(library, replace(plan, strict=False))


class LiesAboutOp(Plugin):
    """Declares experts, runs them on the reference."""

    library = _FallsBack
    executor = _NotStrict


class LiesAboutDtype(Plugin):
    """Declares bfloat16 and cannot do it."""

    capabilities = replace(HEALTHY, act_dtypes=("float32", "bfloat16"))

    @hookimpl
    def quire_create_executor(self, device: str, plan: ExecutorPlan) -> Executor:
        if plan.act_dtype == "bfloat16":
            raise BackendError("no bfloat16 here")
        return super().quire_create_executor(device, plan)


class TakesEverything(Plugin):
    """Runs plans that it never declared, in float32."""

    @hookimpl
    def quire_create_executor(self, device: str, plan: ExecutorPlan) -> Executor:
        library = self.library()
        library.capabilities = replace(
            CAPABILITIES, max_tp=8, async_depth=2, group_kinds=frozenset({"full", "sliding", "latent"})
        )
        return GraphExecutor(library, plan)

    def check(self, options: Mapping[str, str]) -> None:
        """Ignores options it does not know."""


class StatesNoContract(Plugin):
    QUIRE_CONTRACT = None


class ProbeRaises(Plugin):
    @hookimpl
    def quire_probe(self, device: str, options: Mapping[str, str]) -> DeviceReport:
        if options:
            raise KeyError("threads")
        return DeviceReport(available=True, name="a broken device", num_devices=1)


class DropsZeroPoints(Plugin):
    class library(Library):
        def put_quantized(self, weight: Any, matrix: Any, shape: Any) -> Any:
            if matrix.zeros is not None:
                matrix = replace(matrix, zeros=np.full_like(matrix.zeros, 8))
            return super().put_quantized(weight, matrix, shape)


def _reads_dequantized(self: Any, weights: Any, progress: Any) -> MemoryReport:
    """Asks for floating-point numbers whatever the checkpoint holds."""

    class Source:
        total_bytes = weights.total_bytes
        read = staticmethod(weights.read)
        read_quantized = staticmethod(lambda weight: None)

    return GraphExecutor.load(self, Source(), progress)


@dataclass(frozen=True)
class Broken:
    """A plugin, and the cases of which at least one must fail."""

    plugin: type[Plugin]
    caught_by: str


BROKEN: dict[str, Broken] = {
    "states_no_contract": Broken(StatesNoContract, "L0/metadata/contract_version"),
    "probe_raises": Broken(ProbeRaises, "L0/metadata/probe"),
    "lies_about_op": Broken(LiesAboutOp, "L0/has_op/experts"),
    "lies_about_dtype": Broken(LiesAboutDtype, "L0/has_dtype/act/bfloat16"),
    "takes_undeclared_plans": Broken(TakesEverything, "L0/refuses/*"),
    "takes_unknown_options": Broken(TakesEverything, "L0/metadata/unknown_option*"),
    "keeps_every_allocation": Broken(with_executor(allocate_kv=_keeps_every_allocation), "L1/create_and_close_*"),
    "reports_weights_twice": Broken(with_executor(load=_reports_double), "L1/weight_bytes/*"),
    "writes_pages_reversed": Broken(with_executor(write_blocks=_writes_reversed), "L1/pages/round_trip/*"),
    "swaps_keys_and_values": Broken(with_executor(read_blocks=_swaps_keys_and_values), "L1/pages/hold_keys_and_values"),
    "nan_leak": Broken(with_op("paged_attention", _nan_leak), "L1/pages/unwritten_slots_stay_unseen"),
    "wrong_causal_mask": Broken(with_op("paged_attention", causal=False), "L2/paged_attention/*"),
    "leaves_sinks_out": Broken(with_op("paged_attention", _leaves_sinks_out), "L2/paged_attention/sinks/*"),
    "slopes_of_the_next_head": Broken(
        with_op("paged_attention", _slopes_of_the_next_head), "L2/paged_attention/alibi/*"
    ),
    "window_off_by_one": Broken(with_op("paged_attention", _window_off_by_one), "L2/paged_attention/window/*"),
    "softcap_missing": Broken(with_op("paged_attention", softcap=0.0), "L2/paged_attention/softcap/*"),
    "norm_offset_dropped": Broken(with_op("add_rms_norm", weight_offset=0.0), "L2/add_rms_norm/offset_normed/*"),
    "slot_off_by_one": Broken(with_op("cache_write", _slot_off_by_one), "L2/cache_write/*"),
    "forgets_the_bias_of_a_sum": Broken(with_op("all_reduce", _forgets_the_bias), "L2/all_reduce/one_rank_bias/*"),
    "gathers_the_padding": Broken(
        with_op("all_gather", _keeps_the_padding), "L2/all_gather/one_rank_without_padding/*"
    ),
    "wrong_expert_in_16_bits": Broken(HalfPrecision, "L3/mixtral/prefill/act=bfloat16*"),
    "wrong_expert_in_16_bits_sliced": Broken(HalfPrecision, "L3/mixtral/sliced_head/act=bfloat16*"),
    "ignores_copies": Broken(_submit_changed(lambda self, batch: replace(batch, copies={})), "L3/*/copied_block/*"),
    "reads_freed_pages": Broken(with_op("paged_attention", _stale_pages), "L3/gemma2/*"),
    "lost_feedback": Broken(_submit_changed(_lost_feedback), "L3/*/token_feedback/*"),
    "samples_the_wrong_token": Broken(with_executor(submit=_second_best), "L3/*/sampled_tokens/*"),
    "drops_zero_points": Broken(DropsZeroPoints, "L2/linear/int4_g32_zp/*"),
    "reads_integers_dequantized": Broken(with_executor(load=_reads_dequantized), "L2/linear/int8/*/stored"),
    "stale_tables": Broken(_submit_changed(_stale_tables), "L4/*/abort_at_any_moment"),
    "copies_lost_in_the_engine": Broken(
        _submit_changed(lambda self, batch: replace(batch, copies={})), "L4/*/several_draws"
    ),
    "sum_depends_on_batch": Broken(with_op("linear", _sum_depends_on_batch), "L6/*/batch_invariant/*"),
    "sum_depends_on_time": Broken(with_op("linear", _sum_depends_on_time), "L6/*/run_to_run/*"),
}
"""Name -> broken backend. `caught_by` is of the level that is meant to catch it."""
